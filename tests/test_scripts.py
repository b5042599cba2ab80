"""Every script, called in this process on a small toy set: the chain, resuming, workers, --help, --dry-run."""
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eval as evaluation
import infer_aff
import infer_cam
import infer_seg
import train_aff
import train_cam_voc
import train_seg
from lib.data.datasets import CamTrainSet, training_batches
from lib.data.labelio import read_maps, read_seeds
from lib.data.registry import get_spec
from lib.files.imageio import read_mask
from lib.run import loop
from lib.run.options import resolve
from lib.run.record import read_scores
from tests.running import (
    CAM_TRAINING,
    HEAD,
    LOADED_HERE,
    NETWORK,
    SCALES,
    TRAINING,
    outcome,
    place,
    same_maps,
    same_tensors,
)
from tool.imutils import IMAGENET_NORM

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.stem for path in ROOT.glob('*.py') if path.stem != 'pipeline')      # which is in test_drivers.py
TRACES = {'args.json', 'env.json', 'log.txt', 'metrics.jsonl', 'last.pth', 'model.pth'}


def backbone(run_folder):
    return '--weights', str(run_folder / 'backbone/model.pth')


def test_the_chain_leaves_what_each_stage_promises(run_folder, toy):
    spec = get_spec(str(toy))
    for stage in ('cam', 'aff', 'seg'):
        names = {path.name for path in (run_folder / stage).iterdir()}
        assert names >= TRACES and any(name.startswith('events.out') for name in names)
    for split in ('train', 'val'):
        for folder, suffix in (('labels/{}/cam', '.npz'), ('labels/{}/seeds', '.npz'), ('labels/{}/walk', '.png'),
                               ('results/{}', '.png')):
            written = {path.name for path in (run_folder / folder.format(split)).iterdir()}
            assert written == {f'{sample.name}{suffix}' for sample in spec.samples(split)} | {'made_by.json'}


def test_label_files_fit_their_images_and_the_image_level_labels(run_folder, toy):
    spec = get_spec(str(toy))
    samples, strongest = spec.samples('train'), []
    alphas = json.loads((run_folder / 'labels/train/seeds/made_by.json').read_text())['args']['seed_alphas']
    for sample, present in zip(samples, spec.image_labels([sample.name for sample in samples])):
        size = Image.open(sample.image).size[::-1]
        labels = run_folder / 'labels/train'
        keys, cam = read_maps(labels / f'cam/{sample.name}.npz')
        assert keys.tolist() == np.flatnonzero(present).tolist() and cam.shape == (len(keys), *size)
        assert cam.min() >= 0
        strongest.append(cam.max())
        seed_keys, seeds = read_seeds(labels / f'seeds/{sample.name}.npz')
        assert seed_keys.tolist() == keys.tolist() and list(seeds) == alphas
        assert all(scores.shape == (len(keys) + 1, *size) for scores in seeds.values())
        walk = read_mask(labels / f'walk/{sample.name}.png', spec.num_classes)
        assert walk.shape == size and set(np.unique(walk).tolist()) <= {0, *(keys + 1).tolist()}
        assert read_mask(run_folder / f'results/train/{sample.name}.png', spec.num_classes).shape == size
    assert 0.99 < max(strongest) <= 1


def test_every_loss_term_is_recorded(run_folder):
    expected = {'cam': {'loss', 'cls', 'cls1', 'cls2', 'isl', 'rvmin1', 'rvmin2', 'er', 'ecr1', 'ecr2', 'fsl'},
                'aff': {'loss', 'bg', 'fg', 'neg'}, 'seg': {'loss'}}
    for stage, terms in expected.items():
        rows = [json.loads(line) for line in (run_folder / stage / 'metrics.jsonl').read_text().splitlines()]
        assert len(rows) == 4 and all(set(row) == terms | {'step', 'lr'} for row in rows)


def test_scores_say_what_they_are_of_and_the_table_shows_them_all(run_folder, toy, capsys):
    records = read_scores(run_folder / 'scores.json')
    assert [(record['what'], record['split'], record['images']) for record in records] == [
        (what, split, count) for what in ('cam', 'walk', 'seg') for split, count in (('val', 6), ('train', 12))]
    assert all(record['protocol'] == 'reference' and record['dataset'] == 'toy' for record in records)
    miou = records[0]['curve']['miou']
    assert len(miou) == len(records[0]['curve']['thresholds']) == 96
    _, best, published = records[0]['results']
    assert best['best'] == 'curve' and best['miou'] == pytest.approx(max(miou))
    assert published['best'] == 'published' and published['miou'] == pytest.approx(max(miou[:60]))
    capsys.readouterr()
    evaluation.main([*place(toy, run_folder.parent), '--table'])
    text = capsys.readouterr().out
    for line in ('CAM at 0.25', 'CAM, best of 0.00 to 0.95', 'CAM, best of 0.00 to 0.59 (published)',
                 'random walk', 'segmentation'):
        assert sum(row.startswith(line) for row in text.splitlines()) == 1


def test_exact_masks_score_a_hundred_under_both_protocols(toy, tmp_path, capsys):
    truth = get_spec(str(toy)).root / 'masks'
    hard = tmp_path / 'hard'
    hard.mkdir()
    for path in truth.glob('val_*.png'):
        mask = np.array(Image.open(path))
        Image.fromarray(np.where(mask == 255, 0, mask).astype(np.uint8)).save(hard / path.name)
    for protocol in evaluation.PROTOCOLS:
        evaluation.main([*place(toy, tmp_path), *LOADED_HERE, '--what', 'seg', '--labels', str(hard), '--protocol',
                         protocol])
    reference, strict = (record['results'][0] for record in read_scores(tmp_path / 'toy/scores.json'))
    assert reference['miou'] == pytest.approx(100) and reference['contour_f'] == pytest.approx(100)
    assert strict['miou'] == pytest.approx(100)


def interrupted(monkeypatch, step):
    """Make training stop, as if interrupted, right after the checkpoint of a step."""
    save = loop.write_torch

    def save_and_stop(path, state):
        save(path, state)
        if state['step'] == step:
            raise KeyboardInterrupt
    monkeypatch.setattr(loop, 'write_torch', save_and_stop)


@pytest.mark.parametrize('stage', ['cam', 'aff', 'seg'])
def test_an_interrupted_stage_ends_as_an_uninterrupted_one(run_folder, toy, tmp_path, monkeypatch, stage):
    main, flags = {'cam': (train_cam_voc.main, CAM_TRAINING), 'aff': (train_aff.main, TRAINING),
                   'seg': (train_seg.main, (*TRAINING, *HEAD))}[stage]
    words = [*place(toy, tmp_path), *LOADED_HERE, *flags, *backbone(run_folder), '--save-every', '1']
    inputs = {'aff': ['--seed-dir', str(run_folder / 'labels/train/seeds')],
              'seg': ['--labels', str(run_folder / 'labels/train/walk')]}.get(stage, [])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted(patch, 2)
        main([*words, *inputs])
    assert not (tmp_path / 'toy' / stage / 'model.pth').exists()
    main([*words, *inputs])
    ours, theirs = tmp_path / 'toy' / stage, run_folder / stage
    assert 'resumed after step 2' in (ours / 'log.txt').read_text()
    assert same_tensors(ours / 'model.pth', theirs / 'model.pth')
    assert (ours / 'metrics.jsonl').read_bytes() == (theirs / 'metrics.jsonl').read_bytes()


def test_a_killed_run_resumes_to_the_same_end(run_folder, toy, tmp_path):
    words = ['--max-steps', '30', '--save-every', '2', '--picture-every', '0', *LOADED_HERE, *backbone(run_folder)]
    command = [sys.executable, 'train_cam_voc.py', *place(toy, tmp_path, 'killed'), *CAM_TRAINING, *words,
               '--epochs', '10']
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads())})
    killed = tmp_path / 'killed/cam'
    for _ in range(6000):
        if (killed / 'last.pth').exists() or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (killed / 'last.pth').exists() and not (killed / 'model.pth').exists()
    for run in ('killed', 'whole'):
        train_cam_voc.main([*place(toy, tmp_path, run), *CAM_TRAINING, *words, '--epochs', '10'])
    assert 'resumed after step' in (killed / 'log.txt').read_text()
    assert same_tensors(killed / 'model.pth', tmp_path / 'whole/cam/model.pth')
    assert (killed / 'metrics.jsonl').read_bytes() == (tmp_path / 'whole/cam/metrics.jsonl').read_bytes()


def test_the_number_of_workers_changes_no_batch(toy):
    data = CamTrainSet(get_spec(str(toy)), 'train', IMAGENET_NORM, 64, (64, 96))
    runs = [list(training_batches(data, 4, 5, 1, workers)(start)) for workers, start in ((0, 0), (2, 0), (2, 2))]
    assert [len(run) for run in runs] == [6, 6, 4]
    for first, second in [*zip(runs[0], runs[1]), *zip(runs[0][2:], runs[2])]:
        assert first['name'] == second['name'] and torch.equal(first['image'], second['image'])
        assert torch.equal(first['image_labels'], second['image_labels'])


def test_the_number_of_workers_changes_no_result(run_folder, toy, tmp_path):
    common = [*place(toy, tmp_path), '--workers', '2']
    train_cam_voc.main([*common, *CAM_TRAINING, *backbone(run_folder)])
    assert same_tensors(tmp_path / 'toy/cam/model.pth', run_folder / 'cam/model.pth')
    infer_cam.main([*place(toy, tmp_path), '--workers', '1', *NETWORK, *SCALES, '--split', 'val', '--export-npy'])
    for path in (run_folder / 'labels/val').glob('*/*.npz'):
        assert same_maps(path, tmp_path / 'toy' / path.relative_to(run_folder))
    exported = tmp_path / 'toy/plabels/val'
    assert sorted(path.name for path in exported.glob('crf/*')) == ['alpha_1.0', 'alpha_5.0']
    for folder in (exported / 'cam', *exported.glob('crf/*')):
        assert {path.stem for path in folder.glob('*.npy')} == {path.stem for path in
                                                            (run_folder / 'labels/val/cam').glob('*.npz')}


def test_a_finished_stage_is_not_trained_again_and_fresh_trains_it_again(run_folder, toy, tmp_path, capsys):
    shutil.copytree(run_folder / 'aff', tmp_path / 'toy/aff')
    words = [*place(toy, tmp_path), *LOADED_HERE, *TRAINING, *backbone(run_folder), '--seed-dir',
             str(run_folder / 'labels/train/seeds')]
    model = tmp_path / 'toy/aff/model.pth'
    before = model.stat().st_mtime_ns
    train_aff.main(words)                   # the same seeds in a folder that is named: nothing has changed
    assert 'is already trained: nothing to do' in capsys.readouterr().out and model.stat().st_mtime_ns == before
    train_aff.main([*words, '--fresh'])
    assert model.stat().st_mtime_ns != before and model.read_bytes() == (run_folder / 'aff/model.pth').read_bytes()


def test_plain_seam_has_neither_sampling_nor_similarity(run_folder, toy, tmp_path):
    train_cam_voc.main([*place(toy, tmp_path), *LOADED_HERE, *CAM_TRAINING, *backbone(run_folder), '--max-steps', '1',
                        '--isl-weight', '0', '--no-fsl', '--picture-every', '0'])
    row, = (tmp_path / 'toy/cam/metrics.jsonl').read_text().splitlines()
    assert not {'isl', 'fsl'} & set(json.loads(row)) and 'ecr1' in json.loads(row)


def test_single_pictures_are_segmented(run_folder, toy, tmp_path):
    files = [str(sample.image) for sample in get_spec(str(toy)).samples('val')[:2]]
    grey = tmp_path / 'grey.png'
    Image.open(files[0]).convert('L').save(grey)
    infer_seg.main([*place(toy, run_folder.parent), *LOADED_HERE, *NETWORK, *HEAD, *SCALES, '--images', *files,
                    str(grey), '--out', str(tmp_path / 'out')])
    for name in ('val_00000', 'val_00001'):
        assert np.array_equal(Image.open(tmp_path / f'out/{name}.png'),
                              Image.open(run_folder / f'results/val/{name}.png'))
    assert Image.open(tmp_path / 'out/grey.png').size == Image.open(grey).size


@pytest.mark.parametrize('stage', ['cam', 'aff', 'seg'])
def test_an_image_smaller_than_the_crop_is_trained_on(run_folder, toy, tmp_path, stage):
    main, flags = {'cam': (train_cam_voc.main, CAM_TRAINING), 'aff': (train_aff.main, TRAINING),
                   'seg': (train_seg.main, (*TRAINING, *HEAD))}[stage]
    inputs = {'aff': ['--seed-dir', str(run_folder / 'labels/train/seeds')],
              'seg': ['--labels', str(run_folder / 'labels/train/walk')]}.get(stage, [])
    main([*place(toy, tmp_path), *LOADED_HERE, *flags, *backbone(run_folder), '--crop-size', '160', '--max-steps', '1',
          '--picture-every', '0', *inputs])
    assert (tmp_path / 'toy' / stage / 'model.pth').exists()


@pytest.mark.parametrize('script', SCRIPTS)
def test_help_shows_the_docstring_and_the_flags(script, monkeypatch, capsys):
    module = importlib.import_module(script)
    text = outcome(module.main, ('--help',), monkeypatch, capsys)
    assert text.startswith('0\n') and module.__doc__.splitlines()[0] in text
    assert '--dataset' in text and '--dry-run' in text and '(default: ' in text


@pytest.mark.parametrize('main', [infer_cam.main, infer_aff.main, infer_seg.main])
def test_inference_is_told_nothing_about_the_network(run_folder, toy, main):
    """The files say their width and head, which are not those of the preset; --fresh loads them."""
    main([*place(toy, run_folder.parent), '--split', 'val', '--device', 'cpu', '--fresh', '--dry-run'])


def test_old_names_of_flags_are_accepted():
    def resolved(module, stage, *words):
        return resolve(module.make_parser(), words, stage, get_spec)[0]

    assert resolved(infer_aff, 'infer_aff', '--log-steps', '3').walk_log2_steps == 3
    assert not resolved(infer_cam, 'infer_cam', '--no-seeds').crf_seeds
    for module, names in ((infer_aff, ('--log-steps', '--width')), (infer_cam, ('--seeds', '--no-seeds', '--backbone')),
                          (infer_seg, ('--dilation', '--fov-channels'))):
        text = module.make_parser().format_help()
        assert not [name for name in names if f'{name} ' in text]


def test_help_gives_units(monkeypatch, capsys):
    text = ' '.join(outcome(train_cam_voc.main, ('--help',), monkeypatch, capsys).split())
    for words in ('images per step, over all GPUs', 'side of the training crop, pixels', 'passes over',
                  'steps between'):
        assert words in text


DRY_RUNS = {'pretrain_toy': ((*NETWORK, '--whole-batch-size', '4'), '12 images of toy, to .*/toy/backbone'),
            'train_cam_voc': (CAM_TRAINING, '4 steps of 4 images .toy train. to .*/toy/cam'),
            'train_cam_coco': (CAM_TRAINING, '4 steps of 4 images .toy train. to .*/toy/cam'),
            'infer_cam': ((*NETWORK, *SCALES), 'of 12 images .toy train. to .*/toy/labels/train'),
            'train_aff': (TRAINING, '4 steps of 4 images .toy train. to .*/toy/aff'),
            'infer_aff': (NETWORK, 'on 12 images .toy train. to .*/toy/labels/train/walk'),
            'train_seg': ((*TRAINING, *HEAD), '4 steps of 4 images .toy train. to .*/toy/seg'),
            'infer_seg': ((*NETWORK, *HEAD, *SCALES), 'of 6 images to .*/toy/results/val'),
            'eval': ((), 'cam of 6 images .toy val. in .*/toy/labels/val/cam')}


@pytest.mark.parametrize('script', SCRIPTS)
def test_a_dry_run_checks_everything_and_writes_nothing(script, run_folder, toy, capsys):
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob('*')}
    flags, expected = DRY_RUNS[script]
    importlib.import_module(script).main([*place(toy, run_folder.parent), '--dry-run', *flags,
                                          *(backbone(run_folder) if script.startswith('train') else ())])
    assert re.search(expected, capsys.readouterr().out)
    assert {path: path.stat().st_mtime_ns for path in run_folder.rglob('*')} == before
