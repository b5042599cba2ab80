"""Our results against the outputs of the public reference implementation, tests/parity or PARITY_DIR.

Every size, class count and setting is read from the files, so that another folder of such files can take their place.
"""
import argparse
import ast
import json
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import train_aff
from coco.prepare import paint_mask
from lib.data import augment
from lib.data.affinity import AffTrainSet
from lib.data.labelio import write_seeds
from lib.files.dataspec import DatasetSpec
from lib.net.aff import AffinityNet
from lib.net.deeplab import DeepLab
from lib.net.freeze import freeze_early, freeze_norm_affine, make_optimizer, set_train_mode
from lib.net.mxnet import V2, V3, read_mxnet_params, resnet38d_from_mxnet
from lib.net.resnet38d import ResNet38d
from lib.net.seam import Seam
from lib.net.weights import load_imagenet
from tests.parity_files import arrays, fill_weights, path, text
from tool.affutils import affinity_label, pair_affinity, pair_counts, pair_labels, pool_cams, random_walk, walk_label
from tool.camloss import adaptive_min_pooling, cam_objective, second_view
from tool.camutils import cam_label
from tool.crfutils import BACKENDS, crf_scores, seed_scores
from tool.densecrf import FINAL_CRF, SEED_CRF
from tool.evalutils import PUBLISHED, Curve, Scores, contour_matches
from tool.imutils import IMAGENET_NORM, Norm
from tool.probutils import draw_pixels, fsl_loss, fsl_loss_plain, isl_loss, isl_loss_plain, max_norm
from tool.seamutils import fuse_scales, onehot_max
from tool.torchutils import lr_groups, poly_factor, set_lr


@pytest.fixture(scope='module')
def seam():
    return fill_weights(Seam(ResNet38d(), arrays('seam_forward.npz')['logits'].shape[1])).eval()


@pytest.fixture(scope='module')
def aff():
    return fill_weights(AffinityNet(ResNet38d())).eval()


@pytest.fixture(scope='module')
def deeplab():
    return fill_weights(DeepLab(ResNet38d(dropouts=(0, 0)), arrays('deeplab.npz')['logits'].shape[1], dropout=0)).eval()


def names_and_shapes(net):
    return [f'{name} {tuple(tensor.shape)}' for name, tensor in net.state_dict().items()]


def classes_in(lines, classifier):
    """Class count of a list of names and shapes: other files may be of another data set."""
    shape = next(line.removeprefix(classifier) for line in lines if line.startswith(f'{classifier} '))
    return ast.literal_eval(shape.strip())[0]


def relative_error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def test_seam_state_dict_has_the_published_names():
    lines = text('seam_state_dict_keys.txt')
    with torch.device('meta'):
        assert names_and_shapes(Seam(ResNet38d(), classes_in(lines, 'fc8.weight'))) == lines


def test_affinity_net_state_dict_has_the_published_names():
    with torch.device('meta'):
        assert names_and_shapes(AffinityNet(ResNet38d())) == text('aff_state_dict_keys.txt')


def test_deeplab_state_dict_has_the_published_names():
    lines = text('deeplab_state_dict_keys.txt')
    with torch.device('meta'):
        assert names_and_shapes(DeepLab(ResNet38d(), classes_in(lines, 'cls_conv.weight'))) == lines


def test_frozen_tensors_are_those_of_the_reference():
    frozen = text('seam_frozen.txt')
    with torch.device('meta'):
        net = Seam(ResNet38d(), 2)
    freeze_early(net)
    parameters = {name: value for name, value in net.state_dict(keep_vars=True).items()
                  if isinstance(value, torch.nn.Parameter)}
    assert sorted(name for name, value in parameters.items() if not value.requires_grad) == sorted(frozen)


def test_seam_forward_equals_reference(seam):
    data = arrays('seam_forward.npz')
    with torch.no_grad():
        out = seam(torch.from_numpy(data['x']))
    assert relative_error(out.cam, data['cam']) < 1e-4
    assert relative_error(out.refined, data['cam_rv']) < 1e-4
    assert relative_error(out.logits, data['logits']) < 1e-4


def test_pair_affinities_equal_reference(aff):
    data = arrays('affinity.npz')
    for name in sorted(key.removesuffix('_x') for key in data if key.endswith('_x')):
        with torch.no_grad():
            pairs = pair_affinity(padded_features(aff, data[f'{name}_x']), int(data['radius']))
        assert np.abs(pairs.numpy() - data[f'{name}_affinity_pairs']).max() < 1e-4


def padded_features(aff, image):
    height, width = image.shape[-2:]
    stride = aff.backbone.stride
    return aff(F.pad(torch.from_numpy(image), (0, -width % stride, 0, -height % stride)))


def test_deeplab_logits_equal_reference(deeplab):
    data = arrays('deeplab.npz')
    deeplab.eval()
    with torch.no_grad():
        logits = deeplab(torch.from_numpy(data['x']))
    assert relative_error(logits, data['logits']) < 1e-3


def test_deeplab_training_step_equals_reference(deeplab):
    data = arrays('deeplab.npz')
    fill_weights(deeplab)
    freeze_norm_affine(deeplab)
    set_train_mode(deeplab, 'batch')
    logits = deeplab(torch.from_numpy(data['train_x']))
    loss = F.cross_entropy(logits, torch.from_numpy(data['train_y']).long(), ignore_index=255)
    loss.backward()
    assert loss.item() == pytest.approx(float(data['train_loss']), rel=1e-3)
    for key, layer in {'gnorm_cls': deeplab.cls_conv, 'gnorm_fov': deeplab.conv_fov,
                       'gnorm_conv1a': deeplab.backbone.conv1a}.items():
        assert layer.weight.grad.norm().item() == pytest.approx(float(data[key]), rel=1e-3)
    assert relative_error(deeplab.backbone.bn7.running_mean, data['bn7_running_mean_after']) < 1e-3
    deeplab.zero_grad()


def expected_tensors():
    """Name -> (shape, CRC-32 of the float32 bytes)."""
    found = {}
    for line in text('mxnet_expected.txt'):
        name, rest = line.split(' ', 1)
        shape, checksum = rest.rsplit(' ', 1)
        found[name] = ast.literal_eval(shape), int(checksum, 16)
    return found


def checked_tensors(file):
    state = resnet38d_from_mxnet(read_mxnet_params(file))
    return {name: (tuple(value.shape), zlib.crc32(value.numpy().tobytes())) for name, value in state.items()}


@pytest.mark.parametrize('layout', ['v0', 'v1', 'v2'])
def test_mxnet_file_is_read_as_mxnet_reads_it(layout):
    assert checked_tensors(path(f'resnet38_width32th_{layout}.params')) == expected_tensors()


def test_mxnet_layouts_agree(tmp_path):
    files = [path(f'resnet38_width32th_{layout}.params') for layout in ('v0', 'v1', 'v2')]
    newest = tmp_path / 'v3.params'     # differs from v2 in the first word of each array only
    newest.write_bytes(files[2].read_bytes().replace(V2.to_bytes(4, 'little'), V3.to_bytes(4, 'little')))
    oldest, *others = [checked_tensors(file) for file in (*files, newest)]
    assert all(other == oldest for other in others)


def test_backbone_takes_the_mxnet_file_of_its_width():
    file = path('resnet38_width32th_v0.params')
    arrays_of_file = resnet38d_from_mxnet(read_mxnet_params(file))
    backbone = ResNet38d(width=len(arrays_of_file['bn7.weight']) / 4096)    # the widest layer tells the factor best
    load_imagenet(backbone, str(file))
    state = backbone.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in arrays_of_file.items())


def fsl_of_file(case, cut):
    """Loss and gradient of one case of fsl.npz, ours and the reference's."""
    file = arrays('fsl.npz')
    sigma = float(file[f'{case}_sigma'])
    cam = torch.from_numpy(file['y']).requires_grad_()
    loss = fsl_loss(cam, torch.from_numpy(file['x']), float(file[f'{case}_mu']), sigma if sigma > 0 else None, cut)
    loss.backward()
    return loss.item(), cam.grad.numpy(), float(file[f'{case}_loss']), file[f'{case}_grad_y']


@pytest.mark.parametrize('cut, tolerance', [(None, 1e-6), (5.0, 1e-5)], ids=['exact', 'cut'])
@pytest.mark.parametrize('case', ['default', 'wide', 'nosigma'])
def test_feature_similarity_loss_and_gradient_equal_the_reference(case, cut, tolerance):
    loss, gradient, expected, expected_gradient = fsl_of_file(case, cut)
    assert loss == pytest.approx(expected, rel=tolerance)
    assert np.linalg.norm(gradient - expected_gradient) < tolerance * np.linalg.norm(expected_gradient)


@pytest.mark.parametrize('case', ['default', 'wide', 'nosigma'])
def test_plain_feature_similarity_loss_equals_the_reference(case):
    file = arrays('fsl.npz')
    sigma = float(file[f'{case}_sigma'])
    cam, images = (torch.from_numpy(file[key]).double() for key in 'yx')
    loss = fsl_loss_plain(cam, images, float(file[f'{case}_mu']), sigma if sigma > 0 else None)
    assert loss.item() == pytest.approx(float(file[f'{case}_loss']), rel=1e-6)


def test_importance_sampling_draws_and_loss_equal_the_reference():
    file = arrays('isl.npz')
    logits, labels = torch.from_numpy(file['logits']), torch.from_numpy(file['labels'])
    torch.manual_seed(int(file['torch_seed']))
    drawn = draw_pixels(torch.from_numpy(file['probs']), int(file['num_samples']))
    np.testing.assert_array_equal(logits.flatten(2).gather(2, drawn).numpy(), file['samples'])
    for loss in (isl_loss, isl_loss_plain):
        assert loss(logits, labels, indices=drawn).item() == pytest.approx(float(file['loss']), abs=1e-6)


def test_normalisations_equal_the_reference():
    file = arrays('norms.npz')
    maps = torch.from_numpy(file['p'])
    np.testing.assert_allclose(max_norm(maps).numpy(), file['max_norm'], atol=1e-6)
    np.testing.assert_allclose(onehot_max(maps).numpy(), file['max_onehot'], atol=1e-6)
    assert adaptive_min_pooling(maps).item() == pytest.approx(float(file['adaptive_min_pooling']), abs=1e-6)


def test_seam_training_step_equals_the_reference():
    file = arrays('seam_step.npz')
    images, labels = torch.from_numpy(file['img']), torch.from_numpy(file['label'])
    network = fill_weights(Seam(ResNet38d(dropouts=(0.0, 0.0)), labels.shape[1] + 1, dropout=0.0))
    freeze_early(network)
    set_train_mode(network, 'running')
    terms = cam_objective(network(images), network(second_view(images)), images, labels, norm=IMAGENET_NORM,
                          isl_indices=torch.from_numpy(file['isl_indices']))
    terms['loss'].backward()

    named = {'loss': 'loss', 'cls': 'loss_cls', 'cls1': 'loss_cls1', 'cls2': 'loss_cls2', 'isl': 'loss_cls_is1',
             'rvmin1': 'loss_rvmin1', 'rvmin2': 'loss_rvmin2', 'er': 'loss_er', 'ecr1': 'loss_ecr1',
             'ecr2': 'loss_ecr2', 'fsl': 'loss_fs1'}
    assert {name: terms[name].item() for name in named} == pytest.approx(
        {name: float(file[key]) for name, key in named.items()}, abs=1e-4)
    parameters = network.state_dict(keep_vars=True)
    for key in (key for key in file if key.startswith('gnorm_')):
        name = key.removeprefix('gnorm_')
        gradient, first = parameters[name].grad, file[f'grad_{name}']
        norm = float(file[key])
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-3), name
        difference = gradient.flatten()[:first.size].numpy() - first
        assert np.linalg.norm(difference) <= 1e-3 * np.linalg.norm(first), name


def test_ten_optimiser_steps_equal_the_reference():
    file = arrays('poly_sgd.npz')
    rates = file['lrs']
    names = ['old.weight', 'old.bias', 'new.weight', 'new.bias']
    # Matrices of one row, because a weight that is a vector would count as a batch norm's.
    rows = [torch.nn.Parameter(torch.from_numpy(row)[None].clone()) for row in file['start']]
    pairs = list(zip(names, rows))
    groups = lr_groups(pairs[:2], pairs[2:], lr=rates[0, 0], weight_decay=5e-4)
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=float(file['momentum'][0]))
    # The file does not say the length of the schedule, but its second rate does.
    total = round(1 / (1 - (rates[1, 0] / rates[0, 0]) ** (1 / 0.9)))
    for step, (expected_rates, expected) in enumerate(zip(rates, file['trajectory'])):
        set_lr(optimizer, poly_factor(step, total))
        np.testing.assert_allclose([group['lr'] for group in optimizer.param_groups], expected_rates, rtol=1e-9)
        optimizer.zero_grad()
        sum((row ** 2).sum() for row in rows).backward()
        optimizer.step()
        np.testing.assert_allclose(torch.cat(rows).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('file, head, freeze', [('seam_param_groups.txt', Seam, freeze_early),
                                                ('deeplab_param_groups.txt', DeepLab, freeze_norm_affine)])
def test_parameter_groups_equal_the_reference(file, head, freeze):
    expected = {name: int(group) for group, name in (line.split() for line in text(file))}
    network = head(ResNet38d(width=1 / 32), num_classes=2)
    freeze(network)
    optimizer = make_optimizer(network, lr=0.01, momentum=0.0005, weight_decay=5e-4)
    numbers = {id(tensor): number for number, group in enumerate(optimizer.param_groups) for tensor in group['params']}
    tensors = network.state_dict(keep_vars=True)
    assert {name: numbers[id(tensor)] for name, tensor in tensors.items() if id(tensor) in numbers} == expected
    assert len(numbers) == len(expected)


def test_cams_match_reference():
    data = arrays('cam_crf.npz')
    maps = torch.from_numpy(data['scale_flip_cams_present'])
    # The reference leaves the lowest pixels below 0.
    np.testing.assert_allclose(fuse_scales(maps).numpy(), data['norm_cam'].clip(0, 1), atol=1e-6)


@pytest.mark.parametrize('backend', BACKENDS)
def test_crf_seeds_match_reference(backend):
    pytest.importorskip(backend)
    data = arrays('cam_crf.npz')
    strengths = [key for key in data if key.startswith('crf_alpha')]
    assert strengths
    alphas = [float(key.removeprefix('crf_alpha')) for key in strengths]
    for key, scores in zip(strengths, seed_scores(data['image'], data['norm_cam'], alphas, backend).values()):
        np.testing.assert_allclose(scores, data[key], atol=1e-3)
        assert (scores.argmax(0) == data[key].argmax(0)).mean() >= 0.999


def test_affinity_label_matches_reference():
    expected = arrays('affinity_labels.npz')['pooled_label_from_top_left_64_crop']
    data = arrays('cam_crf.npz')
    alphas = sorted((key for key in data if key.startswith('crf_alpha')), key=lambda key: float(key[len('crf_alpha'):]))
    height, width = (8 * side for side in expected.shape)
    low, high = (data[key][:, :height, :width] for key in (alphas[0], alphas[-1]))
    np.testing.assert_array_equal(affinity_label(low, high), expected)


def test_pair_labels_match_reference():
    data = arrays('affinity_labels.npz')
    pairs = pair_labels(torch.from_numpy(data['label_map'])[None])
    shape = tuple(data['shape'])
    for kind, found in pairs._asdict().items():
        expected = np.unpackbits(data[kind])[:shape[0] * shape[1]].reshape(shape).astype(bool)
        np.testing.assert_array_equal(found[0].numpy(), expected)
    np.testing.assert_array_equal(pair_counts(pairs).numpy(), data['counts'])


KEYS, CROP = [1, 3], 96                                     # classes in the image; 12 x 12 positions
MEAN_HALF = Norm((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def low_image(tmp_path):
    """(image [70, 110, 3], its seeds [2, 1 + k, 70, 110], a function norm -> training set): rows are padded."""
    rng = np.random.default_rng(7)
    image = rng.integers(0, 256, (10, 11, 3), np.uint8).repeat(7, 0).repeat(10, 1)
    # Scores of 0 and 1, which a file of seeds keeps as they are; the second seeds have less background.
    channels = np.stack([rng.choice(3, (14, 22), p=chance) for chance in ((0.6, 0.2, 0.2), (0.3, 0.35, 0.35))])
    seeds = (channels.repeat(5, 1).repeat(5, 2)[:, None] == np.arange(3)[:, None, None]).astype(np.float32)
    Image.fromarray(image).save(tmp_path / 'a.png')
    (tmp_path / 'train.txt').write_text('a\n')
    write_seeds(tmp_path / 'seeds/a.npz', KEYS, dict(zip((1.0, 24.0), seeds)))
    spec = DatasetSpec('low', ('a', 'b', 'c', 'd'), tmp_path, tmp_path, '{}.png', train_split='train')
    return image, seeds, lambda norm: AffTrainSet(spec, 'train', norm, CROP, tmp_path / 'seeds')


@pytest.fixture
def drawn(monkeypatch):
    """The crops and flips that are drawn, in order; colours stay."""
    crops, crop, flip = [], augment.random_crop, augment.random_flip
    monkeypatch.setattr(augment, 'colour_jitter', lambda image, rng: image)
    monkeypatch.setattr(augment, 'random_crop', lambda *words: crops.append([crop(*words)]) or crops[-1][0])
    monkeypatch.setattr(augment, 'random_flip', lambda rng: crops[-1].append(flip(rng)) or crops[-1][1])
    return crops


def crop_by_hand(image, seeds, crop, flip, norm):
    """Network input [3, CROP, CROP] and labels [CROP / 8, CROP / 8] as SPEC has them: first the crop, padded with
    black, then the normalisation; the seeds padded with 0, their mean over 8 x 8 pixels, and the strongest of each.
    """
    top, left = (target.start - source.start for source, target in zip(crop.source, crop.target))
    window, scores = np.zeros((CROP, CROP, 3)), np.zeros((*seeds.shape[:2], CROP, CROP))
    for y in range(CROP):
        for x in range(CROP):
            row, column = y - top, (CROP - 1 - x if flip.step < 0 else x) - left
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                window[y, x], scores[:, :, y, x] = image[row, column], seeds[:, :, row, column]
    label = np.zeros((CROP // 8, CROP // 8), int)
    for i in range(CROP // 8):
        for j in range(CROP // 8):
            low, high = scores[:, :, 8 * i:8 * i + 8, 8 * j:8 * j + 8].mean((2, 3))
            label[i, j] = [255, *(key + 1 for key in KEYS)][low.argmax()]
            if high.argmax() == 0:
                label[i, j] = 0
            if max(low.max(), high.max()) < 1e-5:
                label[i, j] = 255
    return ((window / 255 - norm.mean) / norm.std).transpose(2, 0, 1), label


def pairs_by_hand(label):
    """{kind: [((y, x), (y, x)), ...]} of the pairs within radius 5."""
    steps = [(0, x) for x in range(1, 5)]
    steps += [(y, x) for y in range(1, 5) for x in range(-4, 5) if x * x + y * y < 25]
    assert len(steps) == 34
    pairs = {'bg': [], 'fg': [], 'neg': []}
    for dy, dx in steps:
        for y in range(label.shape[0] - 4):
            for x in range(4, label.shape[1] - 4):
                one, other = label[y, x], label[y + dy, x + dx]
                if one != 255 and other != 255:
                    kind = 'neg' if one != other else 'fg' if one else 'bg'
                    pairs[kind].append(((y, x), (y + dy, x + dx)))
    return pairs


@pytest.mark.parametrize('norm', [IMAGENET_NORM, MEAN_HALF], ids=['imagenet', 'half'])
def test_padded_affinity_crop_equals_a_computation_by_hand(low_image, drawn, norm):
    image, seeds, make_set = low_image
    dataset = make_set(norm)
    for epoch in range(4):
        sample = dataset[epoch, 0]
        expected, label = crop_by_hand(image, seeds, *drawn[-1], norm)
        np.testing.assert_allclose(sample['image'].numpy(), expected, atol=1e-6)
        np.testing.assert_array_equal(sample['label'].numpy(), label)
        counts = pair_counts(pair_labels(sample['label'][None])).tolist()
        assert counts == [len(pairs) for pairs in pairs_by_hand(label).values()] and min(counts) > 0
        padding = sample['image'][:, 0 if drawn[-1][0].target[0].start else -1, 0]
        black = {IMAGENET_NORM: [-2.118, -2.036, -1.804], MEAN_HALF: [-1, -1, -1]}[norm]
        assert padding.tolist() == pytest.approx(black, abs=5e-4)
    assert len({flip.step for _, flip in drawn}) == 2


def test_affinity_training_step_equals_a_computation_by_hand(low_image, drawn):
    image, seeds, make_set = low_image
    network = fill_weights(AffinityNet(ResNet38d(width=1 / 16, dropouts=(0, 0)))).eval().double()
    args, dataset = argparse.Namespace(radius=5), make_set(IMAGENET_NORM)
    samples = [dataset[epoch, 0] for epoch in range(2)]
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in ('image', 'label')}
    batch['counts'] = train_aff.count_pairs(args, batch)
    step = train_aff.make_step(args, lambda images: network(images.double()))
    terms = {name: value.item() for name, value in step(batch).items()}

    costs = {'bg': [], 'fg': [], 'neg': []}
    for crop, flip in drawn:
        view, label = crop_by_hand(image, seeds, crop, flip, IMAGENET_NORM)
        with torch.no_grad():
            features = network(torch.from_numpy(view)[None])[0].numpy()
        for kind, pairs in pairs_by_hand(label).items():
            for (y, x), (other_y, other_x) in pairs:
                affinity = np.exp(-np.abs(features[:, y, x] - features[:, other_y, other_x]).mean())
                costs[kind].append(-np.log(1 + 1e-5 - affinity if kind == 'neg' else affinity + 1e-5))
    expected = {kind: sum(values) / (len(values) + 1e-5) for kind, values in costs.items()}
    expected['loss'] = expected['bg'] / 4 + expected['fg'] / 4 + expected['neg'] / 2
    assert terms == pytest.approx(expected, abs=1e-6)
    assert min(expected.values()) > 0.01


@pytest.mark.parametrize('case', ['aff', 'affodd'])
def test_affinities_and_walk_match_reference(case):
    data = arrays('affinity.npz')
    radius = int(data['radius'])
    images = torch.from_numpy(data[f'{case}_x'])
    height, width = images.shape[2:]
    net = fill_weights(AffinityNet(ResNet38d())).eval()
    with torch.inference_mode():
        features = net(F.pad(images, (0, -width % 8, 0, -height % 8)))
        affinity = pair_affinity(features, radius)
    np.testing.assert_allclose(affinity.numpy(), data[f'{case}_affinity_pairs'], atol=1e-4)

    keys, cam = data[f'{case}_cam_keys'], data[f'{case}_cam_vals']
    pooled = pool_cams(cam, float(data['alpha']))
    beta, log_steps = float(data['beta']), int(data['logt'])
    walked = random_walk(affinity[0].numpy(), features.shape[2:], pooled, beta, log_steps, radius)
    np.testing.assert_allclose(walked, data[f'{case}_walk'], atol=1e-4)
    assert (walk_label(walked, keys, (height, width)) == data[f'{case}_pred']).mean() >= 0.999


@pytest.mark.parametrize('backend', BACKENDS)
def test_final_crf_matches_reference(backend):
    pytest.importorskip(backend)
    data = arrays('final_crf.npz')
    probs = torch.from_numpy(data['logits_float16']).float().softmax(0).numpy()
    scores = crf_scores(data['image'], probs, FINAL_CRF, backend).numpy()
    assert (scores.argmax(0) == data['crf_argmax']).mean() >= 0.999
    np.testing.assert_allclose(scores.max(0), data['crf_max'].astype(np.float32), atol=1e-3)
    assert FINAL_CRF != SEED_CRF


def cams_of(data, image):
    mine = data['cam_image'] == image
    order = np.argsort(data['cam_class'][mine])
    return data['cam_class'][mine][order].astype(int), data['cam_values_float16'][mine][order].astype(np.float32)


def test_scores_of_label_maps_match_reference():
    data = arrays('evaluation.npz')
    scores = Scores(len(data['iou_percent']))
    for truth, pred in zip(data['gt'], data['pred']):
        scores.add(truth, pred)
    summary = scores.summary()
    np.testing.assert_allclose(summary['iou'], data['iou_percent'], atol=1e-6)
    assert summary['miou'] == pytest.approx(float(data['miou_percent']), abs=1e-6)
    assert round(summary['contour_f'], 3) == pytest.approx(float(data['contour_f_percent_pred']), abs=1e-9)


def test_scores_of_cams_match_reference():
    data = arrays('evaluation.npz')
    num_classes = len(data['iou_percent'])
    scores, curve = Scores(num_classes), Curve(num_classes)
    for i, truth in enumerate(data['gt']):
        keys, cam = cams_of(data, i)
        scores.add(truth, cam_label(keys, cam, 0.25))
        curve.add(truth, keys, cam)
    summary = scores.summary()
    np.testing.assert_allclose(summary['iou'], data['iou_percent_cam_bg025'], atol=1e-6)
    assert round(summary['contour_f'], 3) == pytest.approx(float(data['contour_f_percent_cam_bg025']), abs=1e-9)
    summary, published = curve.summary(), data['curve_miou_percent']
    np.testing.assert_allclose(summary['miou'][:PUBLISHED], published, atol=1e-6)
    assert len(published) == PUBLISHED == 60 and summary['published_threshold'] == published.argmax() / 100
    assert summary['published_miou'] == pytest.approx(published.max(), abs=1e-6)


def test_contour_matches_of_one_mask_pair_match_reference():
    data = arrays('evaluation.npz')
    label = int(data['f_matches_class'])
    found = contour_matches(data['gt'][0], data['pred'][0], len(data['iou_percent']))[label - 1]
    # The file holds two numbers of matches, then two totals; which map comes first its names do not say.
    matches, totals = data['f_matches_image0'].reshape(2, 2)
    assert sorted(zip(matches, totals)) == sorted([tuple(found[:2]), tuple(found[2:])])


def test_coco_masks_equal_the_reference():
    instances = json.loads(path('coco_instances.json').read_text())
    category_ids = [category['id'] for category in instances['categories']]
    expected = arrays('coco_masks.npz')
    assert expected
    for image in instances['images']:
        annotations = [entry for entry in instances['annotations'] if entry['image_id'] == image['id']]
        mask = paint_mask(annotations, category_ids, image['height'], image['width'])
        np.testing.assert_array_equal(mask, expected[f'{image["id"]:012d}'], err_msg=image['file_name'])
