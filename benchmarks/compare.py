"""Compare each part of the method with its plain textbook form: speed, memory, disk space, and agreement of results.

    python benchmarks/compare.py --json out.json          under ten minutes on two CPU cores
    python benchmarks/compare.py --device cuda            the same on a GPU, with the training step at full size

Both forms get the same inputs in the same process and take turns; the median of their times counts. Every part, and
every measurement of memory, runs in its own process. The CRF is compared with pydensecrf if that is installed. Exits
with 1 if results disagree; a ratio below its target is only marked. Without --device, a GPU is used if there is one.
"""
import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Ratios wanted; on a CPU those of bfloat16 suppose one that multiplies it in tiles (AMX).
WANTED = {'fsl_speedup': 12, 'fsl_memory_ratio': 10, 'walk_speedup': 40, 'cam_infer_speedup_bf16': 4,
          'cam_infer_speedup_fp32': 1.05, 'curve_speedup': 40, 'contour_speedup': 6, 'label_bytes_ratio': 25,
          'cam_step_speedup_bf16': 2, 'crf_seeds_2_speedup': 1, 'crf_seeds_4_speedup': 1, 'crf_final_21_speedup': 1}
PARTS = ('fsl', 'fsl_memory_textbook', 'fsl_memory_ours', 'walk', 'crf_seeds_2', 'crf_seeds_4', 'crf_final_21',
         'crf_memory_pydensecrf', 'crf_memory_ours', 'scores', 'labels', 'cam_infer', 'cam_step')


def run_part(part: str, device: str) -> dict:
    """What one comparison reports; see parts.py.

    Raises:
        RuntimeError: if its process failed; its own message was shown.
    """
    done = subprocess.run([sys.executable, '-m', 'benchmarks.parts', part, '--device', device], cwd=ROOT,
                          stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f'{part} ended with status {done.returncode}')
    return json.loads(done.stdout.splitlines()[-1])


def gather(reports: dict[str, dict]) -> dict:
    """The reports of all parts as one: 'values', 'seconds', 'bytes', 'agreement', and what they ran with."""
    result = {kind: {key: value for report in reports.values() for key, value in report.get(kind, {}).items()}
              for kind in ('values', 'seconds', 'bytes', 'agreement')}
    stored = result['bytes']
    if {'fsl textbook', 'fsl ours'} <= set(stored):
        result['values']['fsl_memory_ratio'] = stored['fsl textbook'] / max(stored['fsl ours'], 1)
    return {**result, **{key: next(iter(reports.values()))[key] for key in ('processor', 'threads', 'torch', 'gpu')}}


def disagreements(agreement: dict[str, tuple[float, float]]) -> list[str]:
    """What differs by more than allowed, or is not a number."""
    return [name for name, (found, allowed) in agreement.items() if not found <= allowed]


def table(result: dict) -> str:
    """Markdown tables: ratios, seconds and bytes, agreement."""
    lines = ['| key | found | wanted |', '|---|---|---|']
    for key, value in result['values'].items():
        wanted = WANTED.get(key)
        mark = '' if wanted is None else f'{wanted:g}' + ('' if value >= wanted else ' (missed)')
        lines.append(f'| `{key}` | {value:.3g} | {mark} |')
    lines += ['', '| form | cost |', '|---|---|']
    lines += [f'| {name} | {value:.3g} s |' for name, value in result['seconds'].items()]
    lines += [f'| {name} | {value / 1e6:.3g} MB |' for name, value in result['bytes'].items()]
    lines += ['', '| difference | found | allowed |', '|---|---|---|']
    lines += [f'| {name} | {found:.2g} | {allowed:g} |' for name, (found, allowed) in result['agreement'].items()]
    return '\n'.join(lines)


def pick_device(name: str) -> str:
    """cpu or cuda; auto is cuda if available, which a short-lived process finds out."""
    if name != 'auto':
        return name
    seen = subprocess.run([sys.executable, '-c', 'import torch; print(torch.cuda.is_available())'],
                          stdout=subprocess.PIPE, text=True, check=True)
    return 'cuda' if seen.stdout.strip() == 'True' else 'cpu'


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto', help='where networks run')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the ratios by key, and all details')
    parser.add_argument('--parts', nargs='+', choices=(*PARTS, 'cam_step_large'), metavar='PART',
                        help=f'only these of {", ".join(PARTS)}, cam_step_large (the last one needs a GPU)')
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the parts; 1 if results disagree."""
    args = make_parser().parse_args(argv)
    device = pick_device(args.device)
    if args.json and args.json.exists() and '"agreement"' not in args.json.read_text(errors='replace'):
        print(f'error: {args.json} exists and is not a report of this command; choose another file', file=sys.stderr)
        return 2
    reports = {}
    for part in args.parts or (*PARTS, *(('cam_step_large',) if device == 'cuda' else ())):
        print(f'{part} ...', file=sys.stderr, flush=True)
        try:
            reports[part] = run_part(part, device)
        except RuntimeError as error:
            print(f'error: {error}', file=sys.stderr)
            return 2
    result = {'date': datetime.date.today().isoformat(), 'device': device, **gather(reports)}
    print(f'{result["date"]}, {result["gpu"] or result["processor"]}, {result["threads"]} threads, '
          f'PyTorch {result["torch"]}\n\n{table(result)}')
    if args.json:
        args.json.write_text(json.dumps({**result['values'], **result}, indent=1) + '\n')
    wrong = disagreements(result['agreement'])
    if wrong:
        print(f'error: results disagree: {", ".join(wrong)}', file=sys.stderr)
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
