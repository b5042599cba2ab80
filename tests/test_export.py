"""A trained network in Python, ONNX and TorchScript."""
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import infer_seg
from lib import export
from lib.files.imageio import read_image
from lib.predict import Segmenter, load_deeplab
from tests.running import LOADED_HERE, SCALES

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def model(run_folder):
    """A trained network's file."""
    return run_folder / 'seg/model.pth'


@pytest.fixture
def photo(toy, tmp_path):
    """A photo that is stored lying and is larger than the network's images."""
    turn = Image.Exif()
    turn[0x0112] = 6
    Image.open(toy.parent / 'images/val_00000.jpg').resize((640, 400)).save(tmp_path / 'photo.jpg', exif=turn)
    return tmp_path / 'photo.jpg'


def test_python_gives_the_labels_of_infer_seg(model, photo, tmp_path):
    infer_seg.main([*LOADED_HERE, *SCALES, '--device', 'cpu', '--amp', 'none', '--checkpoint', str(model), '--probs',
                    '--images', str(photo), '--out', str(tmp_path / 'out')])
    scales = [float(word) for word in SCALES[1:]]
    result = Segmenter(model, device='cpu', amp='none', scales=scales)(photo)
    assert np.array_equal(result.labels, np.array(Image.open(tmp_path / 'out/photo.png')))
    assert result.labels.shape == (640, 400) and result.image.shape == (640, 400, 3)
    assert result.classes == ('background', *load_deeplab(model).classes)
    assert np.allclose(result.probs.sum(0), 1, atol=1e-4) and max(result.probs.shape[1:]) <= 500
    assert result.overlay().shape[1] == 400
    assert np.array_equal(np.array(Image.open(tmp_path / 'out/overlays/photo.jpg')).shape, result.overlay().shape)
    assert set(result.polygons()) == set(result.found)
    assert sum(result.found.values()) == pytest.approx((result.labels > 0).mean())


def test_a_batch_gives_the_results_of_its_images(model, photo):
    segmenter = Segmenter(model, device='cpu', amp='none', scales=(1,), flip=False, crf=False)
    image = read_image(photo, upright=True)
    given = [image, Image.fromarray(image[::-1]), image[:200], photo]
    results = list(segmenter.batches(given, batch_size=2))
    for source, result in zip(given, results, strict=True):
        assert np.abs(segmenter(source).probs - result.probs).max() < 1e-5
    assert [result.labels.shape for result in results] == [(640, 400), (640, 400), (200, 400), (640, 400)]
    with pytest.raises(ValueError, match=r'expected RGB uint8 \[H, W, 3\], found float32'):
        segmenter(image.astype(np.float32))


def test_fast_is_one_scale_without_flip(model):
    words = ['--checkpoint', str(model), '--images', 'a.jpg']
    fast = infer_seg.make_parser().parse_args([*words, '--fast'])
    assert (fast.scales, fast.flip) == ((1.0,), False) and not hasattr(fast, 'fast')
    assert infer_seg.make_parser().parse_args(words).flip


def test_exports_are_written_beside_the_labels(model, photo, tmp_path, capsys):
    words = [*LOADED_HERE, '--fast', '--device', 'cpu', '--amp', 'none', '--checkpoint', str(model), '--images',
             str(photo), '--out', str(tmp_path / 'out'), '--export', 'coco', 'cutouts']
    infer_seg.main(words)
    assert json.loads((tmp_path / 'out/coco/rle.json').read_text())['images'] == [
        {'id': 1, 'file_name': 'photo.jpg', 'width': 400, 'height': 640}]
    infer_seg.main(words)
    (tmp_path / 'out/yolo').mkdir()
    (tmp_path / 'out/yolo/mine.txt').write_text('mine')
    with pytest.raises(ValueError, match='yolo exists and was not written by this code'):
        infer_seg.main([*words, 'yolo'])


def test_torchscript_holds_all_it_needs(model, photo, tmp_path, capsys):
    target = tmp_path / 'model.pt'
    export.main([str(model), '--torchscript', str(target), '--image', str(photo)])
    assert f'{target}: 6 classes' in capsys.readouterr().out
    files = {'facts.json': ''}
    network = torch.jit.load(target, _extra_files=files)
    facts = json.loads(files['facts.json'])
    assert facts['classes'][0] == 'background' and len(facts['classes']) == 7
    image = read_image(photo, True, facts['max_side'])
    expected = Segmenter(model, device='cpu', amp='none', scales=(1,), flip=False, crf=False)(image)
    probs = network(torch.from_numpy(image)[None])[0].detach().numpy()
    assert np.abs(probs - expected.probs).max() < 1e-4
    export.main([str(model), '--torchscript', str(target)])         # its own file is replaced


def test_onnx_labels_as_the_network(model, photo, tmp_path, capsys):
    runtime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    export.main([str(model), '--onnx', str(tmp_path / 'model.onnx')])
    session = runtime.InferenceSession(tmp_path / 'model.onnx')
    assert len(json.loads(session.get_modelmeta().custom_metadata_map['classes'])) == 7
    for image in (read_image(photo, True, 300), read_image(photo, True, 77)):
        expected = Segmenter(model, device='cpu', amp='none', scales=(1,), flip=False, crf=False)(image)
        probs, = session.run(None, {'image': image[None]})
        assert np.abs(probs[0] - expected.probs).max() < 1e-4
        assert (probs[0].argmax(0) == expected.labels).mean() >= 0.999


@pytest.mark.parametrize('words, problem', [
    ([], 'give --onnx FILE or --torchscript FILE'),
    (['--torchscript', '{model}'], 'is an input of this command'),
    (['--torchscript', '{photo}'], 'was not written by python -m lib.export'),
    (['--torchscript', 'new.pt', '--image', 'none.jpg'], 'none.jpg does not exist')])
def test_wrong_words_are_named_and_nothing_is_written(model, photo, words, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = model.read_bytes(), photo.read_bytes()
    with pytest.raises((ValueError, OSError), match=problem):
        export.main([str(model), *(word.format(model=model, photo=photo) for word in words)])
    assert (model.read_bytes(), photo.read_bytes()) == before and not Path('new.pt').exists()


@pytest.mark.parametrize('missing', ['onnx', 'onnxruntime'])
def test_a_missing_package_is_named_before_anything_is_traced(model, tmp_path, monkeypatch, missing):
    for name in ('onnx', 'onnxruntime'):
        monkeypatch.setitem(sys.modules, name, None if name == missing else ModuleType(name))
    monkeypatch.setattr(torch.onnx, 'export', lambda *_, **__: pytest.fail('traced'))
    with pytest.raises(ImportError, match=rf'--onnx needs a package .*{missing}.*; pip install -r requirements-export'):
        export.main([str(model), '--onnx', str(tmp_path / 'model.onnx')])
    assert not list(tmp_path.iterdir())


def test_a_file_that_labels_otherwise_is_not_kept(model, tmp_path, monkeypatch):
    monkeypatch.setattr(export, 'agreement', lambda *_: 0.5)
    with pytest.raises(ValueError, match='would label only 50.00% of the pixels'):
        export.main([str(model), '--torchscript', str(tmp_path / 'model.pt')])
    assert not list(tmp_path.glob('*.pt'))


def test_the_module_runs_from_another_folder(model, photo, tmp_path):
    code = (f'import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom lib.predict import Segmenter\n'
            f'print(Segmenter({str(model)!r}, scales=(1,))({str(photo)!r}).labels.shape)')
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == '(640, 400)\n', done.stderr
