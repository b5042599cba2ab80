"""Wrong inputs: each gives one line that names the culprit and the remedy, before anything is trained or written."""
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import eval as evaluation
import infer_aff
import infer_cam
import infer_seg
import train_aff
import train_cam_coco
import train_cam_voc
import train_seg
from lib.data.labelio import read_maps, write_maps
from lib.files.imageio import write_label_png
from lib.process.ending import run_script
from tests.running import CAM_TRAINING, HEAD, LOADED_HERE, NETWORK, SCALES, TRAINING, error_line, place, tensors

NONE = ('--weights', 'none')


@pytest.fixture
def data(toy, tmp_path):
    """A copy of the toy set, to be spoilt."""
    shutil.copytree(toy.parent, tmp_path / 'data')
    return tmp_path / 'data'


def cam_words(data, tmp_path, *words):
    return (*place(data / 'dataset.json', tmp_path / 'exp'), *LOADED_HERE, *CAM_TRAINING, *NONE, *words)


def refused(tmp_path, capsys, main, words, *expected):
    """The error line must have all the expected parts; nothing may be written."""
    line = error_line(main, words, capsys)
    for part in expected:
        assert re.search(part, line), line
    assert not (tmp_path / 'exp').exists()


def spoil_missing(path):
    path.unlink()


def spoil_cut(path):
    path.write_bytes(path.read_bytes()[:-300])


def spoil_empty(path):
    path.write_bytes(b'')


def spoil_text(path):
    path.write_text('no picture')


def spoil_value(path):
    write_label_png(path, np.full(Image.open(path).size[::-1], 9, np.uint8))


@pytest.mark.parametrize('spoil, problem, remedy', [
    (spoil_missing, 'train lists images that do not exist', 'check --data-root, or correct the list'),
    (spoil_cut, 'is not a readable image', 'restore it'), (spoil_empty, 'is not a readable image', 'restore it'),
    (spoil_text, 'is not a readable image', 'restore it')], ids=['missing', 'truncated', 'empty', 'text'])
def test_a_picture_that_cannot_be_read_is_named_before_training(data, tmp_path, capsys, spoil, problem, remedy):
    spoil(data / 'images/train_00007.jpg')
    refused(tmp_path, capsys, train_cam_voc.main, cam_words(data, tmp_path), r'train_00007\.jpg', problem, remedy)


def test_a_picture_of_the_validation_set_is_missed_before_training_too(data, tmp_path, capsys):
    (data / 'images/val_00001.jpg').unlink()
    refused(tmp_path, capsys, train_cam_voc.main, cam_words(data, tmp_path), r'val_00001\.jpg', '--picture-every 0')
    train_cam_voc.main([*cam_words(data, tmp_path), '--picture-every', '0', '--dry-run'])


def test_a_label_met_in_training_that_no_class_has_is_one_line(run_folder, data, tmp_path, capsys):
    """Only reading the pixels shows it; the progress bar stands on stderr already."""
    labels = tmp_path / 'labels'
    shutil.copytree(run_folder / 'labels/train/walk', labels)
    spoil_value(labels / 'train_00003.png')
    words = (*place(data / 'dataset.json', tmp_path / 'exp'), *TRAINING, *NONE, '--labels', labels, *LOADED_HERE,
             '--picture-every', '0')
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: train_seg.main([str(word) for word in words]))
    line, = [line for line in capsys.readouterr().err.splitlines() if line and '%|' not in line]
    assert stop.value.code == 2
    assert re.match(r'error: \S*train_00003\.png holds the value 9; expected 0 to 6 or 255: check the class list', line)


@pytest.mark.parametrize('mode', ['L', 'CMYK', 'P'])
def test_grey_cmyk_and_palette_pictures_are_taken_as_they_are(data, tmp_path, mode):
    path = data / 'images/train_00000.jpg'
    picture = Image.open(path).convert(mode)
    picture.save(path, format='PNG' if mode == 'P' else 'JPEG')
    assert Image.open(path).mode == mode
    train_cam_voc.main([*cam_words(data, tmp_path, '--batch-size', '12', '--max-steps', '1', '--picture-every', '0')])
    assert (tmp_path / 'exp/toy/cam/model.pth').exists()


def test_a_list_that_names_an_absent_id(data, tmp_path, capsys):
    with open(data / 'lists/train.txt', 'a') as file:
        file.write('train_00099\n')
    refused(tmp_path, capsys, train_cam_voc.main, cam_words(data, tmp_path), r'labels\.txt has no line for train_00099',
            'make it with python -m lib.data.toy')
    with open(data / 'lists/labels.txt', 'a') as file:
        file.write('train_00099\tstar\n')
    refused(tmp_path, capsys, train_cam_voc.main, cam_words(data, tmp_path), r'train_00099\.jpg', 'correct the list')


@pytest.mark.parametrize('text', ['', '\n\n'])
def test_an_empty_list(data, tmp_path, capsys, text):
    (data / 'lists/train.txt').write_text(text)
    refused(tmp_path, capsys, train_cam_voc.main, cam_words(data, tmp_path), r'train\.txt names no image', 'make it')


def test_a_class_without_any_image(data, tmp_path, capsys):
    lines = (data / 'lists/labels.txt').read_text().replace('\tstar', '').replace('\tkite', '')
    (data / 'lists/labels.txt').write_text(lines)
    refused(tmp_path, capsys, train_cam_voc.main, cam_words(data, tmp_path), 'no image of toy train shows kite, star',
            '--empty-classes allow')
    train_cam_voc.main([*cam_words(data, tmp_path), '--empty-classes', 'allow', '--dry-run'])


@pytest.mark.parametrize('stage', ['cam', 'aff', 'seg'])
def test_a_batch_larger_than_the_set(run_folder, data, tmp_path, capsys, stage):
    main = {'cam': train_cam_voc.main, 'aff': train_aff.main, 'seg': train_seg.main}[stage]
    inputs = {'aff': ('--seed-dir', run_folder / 'labels/train/seeds'),
              'seg': ('--labels', run_folder / 'labels/train/walk')}.get(stage, ())
    words = (*place(data / 'dataset.json', tmp_path / 'exp'), *TRAINING, *NONE, *inputs, '--batch-size', '13')
    refused(tmp_path, capsys, main, words, '--batch-size 13 is larger than the 12 images of train', 'use at most 12')


@pytest.mark.parametrize('main, default', [(train_cam_voc.main, 'voc12'), (train_cam_coco.main, 'coco')])
def test_a_data_set_that_was_not_prepared(tmp_path, capsys, monkeypatch, main, default):
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, capsys, main, (*NETWORK, *NONE), rf'{default}/train\S*\.txt does not exist')


def test_an_unknown_data_set(tmp_path, capsys):
    refused(tmp_path, capsys, train_cam_voc.main, ('--dataset', 'pascal'), '--dataset pascal is unknown',
            'use voc12, coco, toy or the path')
    refused(tmp_path, capsys, train_cam_voc.main, ('--dataset', str(tmp_path / 'no.json')), r'no\.json does not exist')


@pytest.mark.parametrize('text, problem', [
    ('{"name": "a"', 'is not valid JSON'), ('[]', r'is \[\], expected dict'), ('{"name": "a"}', 'lacks "classes"'),
    ('{"name": "a", "classes": [], "images": "{}.jpg"}', 'at least one class'),
    ('{"name": "a", "classes": ["x"], "images": "a.jpg"}', 'with one {} in place'),
    ('{"name": "a", "classes": ["x"], "images": "{}.jpg", "colour": "red"}', 'unknown entry \'colour\''),
    ('{"name": "a", "classes": "x", "images": "{}.jpg"}', 'expected list')])
def test_a_broken_description_of_a_data_set(data, tmp_path, capsys, text, problem):
    (data / 'dataset.json').write_text(text)
    refused(tmp_path, capsys, train_cam_voc.main, cam_words(data, tmp_path), r'dataset\.json', problem)


def test_an_unknown_preset(data, tmp_path, capsys):
    description = json.loads((data / 'dataset.json').read_text())
    (data / 'dataset.json').write_text(json.dumps({**description, 'preset': 'tiny'}))
    refused(tmp_path, capsys, train_cam_voc.main, cam_words(data, tmp_path), "preset 'tiny'", 'voc12, coco, toy')


@pytest.mark.parametrize('main', [infer_cam.main, infer_aff.main, infer_seg.main, evaluation.main])
def test_an_unknown_split(run_folder, data, tmp_path, capsys, main):
    network = ('--checkpoint', run_folder / 'seg/model.pth') if main is infer_seg.main else ()
    refused(tmp_path, capsys, main, (*place(data / 'dataset.json', tmp_path / 'exp'), '--split', 'test', *network),
            r'lists/test\.txt does not exist', 'existing lists: train, val')


def test_an_unknown_device(data, tmp_path, capsys):
    for name in ('tpu', 'mps', 'meta', 'cuda:x'):
        refused(tmp_path, capsys, train_cam_voc.main, cam_words(data, tmp_path, '--device', name),
                f'--device {name} is unknown; use auto, cpu, cuda or cuda:N')
    refused(tmp_path, capsys, train_cam_voc.main, cam_words(data, tmp_path, '--device', 'cuda:99'),
            r'--device cuda:99: \d+ GPUs are visible; use --device cpu')
    refused(tmp_path, capsys, train_cam_voc.main, cam_words(data, tmp_path, '--amp', 'fp16'), '--amp fp16 needs a GPU')


def test_missing_imagenet_weights(data, tmp_path, capsys):
    for name in ('absent.params', 'absent.pth'):
        refused(tmp_path, capsys, train_cam_voc.main, cam_words(data, tmp_path, '--weights', tmp_path / name), name,
                'put the file into pretrained/', '--weights none')


def test_weights_of_another_width_or_network(run_folder, data, tmp_path, capsys):
    weights = run_folder / 'backbone/model.pth'
    refused(tmp_path, capsys, train_cam_voc.main, cam_words(data, tmp_path, '--weights', weights, '--width', '0.0625'),
            r'backbone/model\.pth has a different width', 'give the --width')
    refused(tmp_path, capsys, train_cam_voc.main,
            cam_words(data, tmp_path, '--weights', run_folder / 'aff/model.pth'),
            r'aff/model\.pth belongs to a different network', 'name the file')
    foreign = tmp_path / 'foreign.pth'
    torch.save({'fc.weight': torch.zeros(3)}, foreign)
    refused(tmp_path, capsys, train_cam_voc.main, cam_words(data, tmp_path, '--weights', foreign),
            r'foreign\.pth belongs')
    foreign.write_bytes(b'no weights')
    refused(tmp_path, capsys, train_cam_voc.main, cam_words(data, tmp_path, '--weights', foreign),
            r'foreign\.pth is corrupt')


INFER = {'cam': (infer_cam.main, ()), 'aff': (infer_aff.main, ()), 'seg': (infer_seg.main, HEAD)}


def infer_words(data, run_folder, tmp_path, stage, checkpoint, *words):
    cams = ('--cams', run_folder / 'labels/val/cam') if stage == 'aff' else ()
    return (*place(data / 'dataset.json', tmp_path / 'exp'), *LOADED_HERE, *NETWORK, *INFER[stage][1], '--split',
            'val', *cams, '--checkpoint', checkpoint, *words)


@pytest.mark.parametrize('stage, other', [('cam', 'aff'), ('aff', 'seg'), ('seg', 'cam')])
def test_a_network_of_another_stage_width_or_none(run_folder, data, tmp_path, capsys, stage, other):
    main = INFER[stage][0]
    refused(tmp_path, capsys, main, infer_words(data, run_folder, tmp_path, stage, tmp_path / 'absent.pth'),
            r'absent\.pth is missing; .* finish the stage that trains')
    refused(tmp_path, capsys, main, infer_words(data, run_folder, tmp_path, stage, run_folder / other / 'model.pth'),
            rf'{other}/model\.pth belongs to a different network', 'name the file of this stage')
    published = tmp_path / 'published.pth'      # does not say its width
    torch.save(tensors(run_folder / stage / 'model.pth'), published)
    words = infer_words(data, run_folder, tmp_path, stage, published, '--width', '0.0625')
    refused(tmp_path, capsys, main, words, r'published\.pth has a different width', 'give the --width')


@pytest.mark.parametrize('stage', ['cam', 'seg'])
def test_a_network_of_another_number_of_classes(run_folder, data, tmp_path, capsys, stage):
    description = json.loads((data / 'dataset.json').read_text())
    description['classes'].append('moon')
    (data / 'dataset.json').write_text(json.dumps(description))
    words = infer_words(data, run_folder, tmp_path, stage, run_folder / stage / 'model.pth')
    refused(tmp_path, capsys, INFER[stage][0], words, r'model\.pth has 7 classes, this data set needs 8',
            'name the file trained on this data set')


def test_a_stage_without_the_files_of_the_stage_before(run_folder, data, tmp_path, capsys):
    common = (*place(data / 'dataset.json', tmp_path / 'exp'), *LOADED_HERE)
    refused(tmp_path, capsys, train_aff.main, (*common, *TRAINING, *NONE), r'lacks seeds: \S*train_00000\.npz',
            r'\(and 11 more\)', 'make them with python infer_cam.py')
    refused(tmp_path, capsys, train_seg.main, (*common, *TRAINING, *NONE), r'lacks labels: \S*train_00000\.png',
            'make them with python infer_aff.py')
    words = (*common, *NETWORK, '--split', 'val', '--checkpoint', run_folder / 'aff/model.pth')
    refused(tmp_path, capsys, infer_aff.main, words, 'lacks CAMs of val', r'val_00000\.npz',
            'make them with python infer_cam.py .*--split val')
    for what, remedy in (('cam', 'infer_cam.py'), ('walk', 'infer_aff.py'), ('seg', 'infer_seg.py')):
        refused(tmp_path, capsys, evaluation.main, (*common, '--what', what), 'val lacks predictions',
                f'make them with python {remedy} .*--split val')
    refused(tmp_path, capsys, evaluation.main, (*common, '--table'), 'run toy has no scores yet')


def test_labels_of_another_size(run_folder, data, tmp_path, capsys):
    labels = tmp_path / 'labels'
    shutil.copytree(run_folder / 'labels/train/walk', labels)
    write_label_png(labels / 'train_00004.png', np.zeros((50, 60), np.uint8))
    common = (*place(data / 'dataset.json', tmp_path / 'exp'), *LOADED_HERE)
    refused(tmp_path, capsys, train_seg.main, (*common, *TRAINING, *NONE, '--labels', labels),
            r'train_00004\.png is 50x60 pixels', r'train_00004\.jpg is \d+x\d+', 'infer_aff.py')
    with pytest.raises(ValueError, match=r'prediction is 50x60, ground truth \d+x\d+; predict at the size'):
        evaluation.main([*common, '--what', 'walk', '--split', 'train', '--labels', str(labels)])


def test_labels_with_a_value_that_no_class_has(run_folder, data, tmp_path, capsys):
    labels = tmp_path / 'labels'
    shutil.copytree(run_folder / 'labels/val/walk', labels)
    spoil_value(labels / 'val_00002.png')
    with pytest.raises(ValueError, match=r'val_00002\.png holds the value 9; expected 0 to 6 or 255'):
        evaluation.main([*place(data / 'dataset.json', tmp_path / 'exp'), *LOADED_HERE, '--what', 'seg', '--labels',
                         str(labels)])


def test_cams_of_another_size(run_folder, data, tmp_path):
    image = data / 'images/val_00003.jpg'
    Image.open(image).resize((40, 40)).save(image)
    words = infer_words(data, run_folder, tmp_path, 'aff', run_folder / 'aff/model.pth')
    with pytest.raises(ValueError, match=r'val_00003\.npz was made from another version of its image; make them with'):
        infer_aff.main([str(word) for word in words])
    # CAMs that say nothing of their image, as other code writes them.
    cams = tmp_path / 'cams'
    for path in (run_folder / 'labels/val/cam').glob('*.npz'):
        write_maps(cams / path.name, *read_maps(path))
    words = [str(word) for word in (*words, '--cams', cams)]
    with pytest.raises(ValueError, match=r'val_00003\.npz is \d+x\d+, its image 40x40 \(.*; regenerate the CAMs'):
        infer_aff.main(words)


def test_a_set_without_masks_cannot_be_scored(run_folder, data, tmp_path, capsys):
    description = json.loads((data / 'dataset.json').read_text())
    del description['masks']
    (data / 'dataset.json').write_text(json.dumps(description))
    words = (*place(data / 'dataset.json', tmp_path / 'exp'), '--labels', run_folder / 'labels/val/cam')
    refused(tmp_path, capsys, evaluation.main, words, 'val has images without a mask', 'add the masks')


def test_other_settings_than_those_of_the_checkpoint(run_folder, toy, tmp_path, capsys):
    shutil.copytree(run_folder / 'cam', tmp_path / 'toy/cam')
    words = (*place(toy, tmp_path), *LOADED_HERE, *CAM_TRAINING, '--weights', run_folder / 'backbone/model.pth')
    line = error_line(train_cam_voc.main, (*words, '--lr', '0.123'), capsys)
    assert re.search(r'--lr was 0\.\d+, is 0\.123', line) and '--fresh' in line and '--run NAME' in line


def test_single_pictures_that_are_not_there_or_share_a_name(run_folder, data, tmp_path, capsys):
    words = (*place(data / 'dataset.json', tmp_path / 'exp'), *NETWORK, *HEAD, *SCALES, '--checkpoint',
             run_folder / 'seg/model.pth', '--images')
    refused(tmp_path, capsys, infer_seg.main, (*words, tmp_path / 'a.jpg'), r'a\.jpg', 'check the names after --images')
    first = data / 'images/val_00000.jpg'
    second = shutil.copy(first, first.with_suffix('.png'))
    refused(tmp_path, capsys, infer_seg.main, (*words, first, second), '2 images would be written', 'different --out')
