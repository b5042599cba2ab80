"""The whole CAM objective: its sum, its switches, its edges; SEAM's losses against slow loops."""
import pytest
import torch

from tool.camloss import (
    adaptive_min_pooling,
    cam_objective,
    classification_loss,
    seam_losses,
    second_view,
)
from tool.imutils import IMAGENET_NORM
from tool.probutils import EPS, fsl_images, fsl_loss, fsl_maps
from tool.seamutils import SeamOutput, resize

LABELS = torch.tensor([[1.0, 0, 1], [0, 0, 0]])


def random_view(size, seed):
    generator = torch.Generator().manual_seed(seed)
    logits, refined = (torch.randn(2, 4, -(-size[0] // 8), -(-size[1] // 8), generator=generator) for _ in range(2))
    return SeamOutput(resize(logits, size), resize(refined.abs(), size), logits)


def objective(**options):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 41, 35)
    return cam_objective(random_view((41, 35), 1), random_view((12, 10), 2), images, LABELS,
                         **({'norm': IMAGENET_NORM} | options))


def test_the_loss_is_the_published_sum_of_its_terms():
    terms = objective(fsl_weight=0.3)
    cls = (terms['cls1'] + terms['cls2'] + terms['rvmin1'] + terms['rvmin2']) / 2
    torch.testing.assert_close(terms['cls'], cls)
    total = cls + terms['er'] + terms['ecr1'] + terms['ecr2'] + 0.3 * terms['fsl']
    torch.testing.assert_close(terms['loss'], total)
    assert all(term.dim() == 0 and term.isfinite() for term in terms.values())


@pytest.mark.parametrize('off', [0, None])
def test_plain_seam_has_neither_of_the_papers_terms(off):
    terms, full = objective(isl_weight=0, fsl_weight=off), objective(isl_weight=0.25)
    assert 'isl' not in terms and 'fsl' not in terms
    torch.testing.assert_close(full['cls1'], 0.75 * terms['cls1'] + 0.25 * full['isl'])
    assert all(torch.equal(terms[name], full[name]) for name in ('cls2', 'rvmin1', 'rvmin2', 'er', 'ecr1', 'ecr2'))


@pytest.mark.parametrize('name, options', [('isl', {'isl_samples': 3}), ('fsl', {'fsl_mu': 1.0}),
                                           ('fsl', {'fsl_sigma': 2.0}), ('fsl', {'fsl_sigma': None})])
def test_every_option_changes_its_term(name, options):
    assert objective()[name] != objective(**options)[name]


def test_the_draw_follows_the_generator():
    first, second = (objective(generator=torch.Generator().manual_seed(5))['isl'] for _ in range(2))
    assert torch.equal(first, second)
    assert first != objective(generator=torch.Generator().manual_seed(6))['isl']


def test_processes_that_share_a_batch_draw_for_all_of_it():
    alone, shared = objective(), objective(batch_rows=(6, slice(2, 4)))
    assert [name for name in alone if alone[name] != shared[name]] == ['cls1', 'isl', 'cls', 'loss']


def test_every_output_of_the_network_gets_a_gradient():
    view1, view2 = random_view((40, 32), 1), random_view((12, 9), 2)
    for maps in (*view1, *view2[:2]):
        maps.requires_grad_()
    cam_objective(view1, view2, torch.randn(2, 3, 40, 32), LABELS, norm=IMAGENET_NORM)['loss'].backward()
    assert all(maps.grad.isfinite().all() and maps.grad.any() for maps in (*view1, *view2[:2]))


def test_similarity_term_normalises_the_logits_and_drops_absent_classes():
    view1, view2, images = random_view((40, 32), 1), random_view((12, 9), 2), torch.randn(2, 3, 40, 32)
    expected = fsl_loss(fsl_maps(view1.logits[:, 1:], LABELS), fsl_images(images, (5, 4), *IMAGENET_NORM))
    assert torch.equal(cam_objective(view1, view2, images, LABELS, norm=IMAGENET_NORM)['fsl'], expected)
    # Without any class every pixel is background, and no two pixels differ.
    assert cam_objective(view1, view2, images, 0 * LABELS, norm=IMAGENET_NORM)['fsl'] == 0


@pytest.mark.parametrize('size, expected', [((448, 448), (134, 134)), ((65, 33), (19, 9)), ((2, 1), (1, 1))])
def test_second_view_rounds_down_to_one_pixel_at_least(size, expected):
    assert second_view(torch.rand(1, 3, *size)).shape == (1, 3, *expected)


def test_half_precision_outputs_give_float32_terms():
    view1, view2 = (SeamOutput(*(maps.bfloat16() for maps in random_view(size, 1))) for size in ((16, 24), (8, 8)))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        terms = cam_objective(view1, view2, torch.randn(2, 3, 16, 24), LABELS, norm=IMAGENET_NORM)
    assert {term.dtype for term in terms.values()} == {torch.float32}


# --------------------------------------------------------------------------------------- SEAM's losses


def random_maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_view(count, channels, height, width, seed=0):
    return SeamOutput(random_maps(count, channels, height, width, seed=seed),
                      random_maps(count, channels, height, width, seed=seed + 1).abs(),
                      random_maps(count, channels, -(-height // 8), -(-width // 8), seed=seed + 2))


@pytest.mark.parametrize('size', [(3, 3), (1, 1), (5, 7)])
def test_adaptive_min_pooling_equals_slow_loop(size):
    maps = random_maps(2, 3, *size)
    means = []
    for n in range(2):
        strongest = sorted(maps[n].amax(0).flatten().tolist())
        count = max(1, len(strongest) // 4)
        means.append(sum(max(0.0, v) for v in strongest[:count]) / count)
    assert adaptive_min_pooling(maps).item() == pytest.approx(sum(means) / 2)


def test_classification_loss_equals_slow_loop_and_ignores_background():
    cam, labels = random_maps(2, 3, 3, 3), torch.tensor([[1, 0], [0, 0]])
    total = 0.0
    for n in range(2):
        for k in range(2):
            prob = torch.sigmoid(cam[n, k + 1].mean())
            total -= torch.log(prob if labels[n, k] else 1 - prob).item() / 4
    assert classification_loss(cam, labels).item() == pytest.approx(total)


def slow_seam_losses(view1, view2, labels):
    """The equations for one image, value by value (view 1 already at the size of view 2)."""
    def normalised(maps):
        rows = []
        for c, plane in enumerate(maps.tolist()):
            positive = [max(0.0, v) for row in plane for v in row]
            low, high = min(positive), max(positive)
            factor = 1.0 if c == 0 else float(labels[c - 1])
            rows.append([factor * max(0.0, v - low - EPS) / (high - low + EPS) for v in positive])
        return rows

    def target(rows):
        best = [max(values) for values in zip(*rows[1:])]
        return [[1 - b for b in best], *[[v if v == b else 0.0 for v, b in zip(row, best)] for row in rows[1:]]]

    def hardest(first, second):
        apart = sorted((abs(a - b) for one, other in zip(first, second) for a, b in zip(one, other)), reverse=True)
        count = max(1, int(0.2 * len(apart)))
        return sum(apart[:count]) / count

    cam1, cam2 = normalised(view1.cam[0]), normalised(view2.cam[0])
    apart = [abs(a - b) for one, other in zip(cam1[1:], cam2[1:]) for a, b in zip(one, other)]
    return {'er': sum(apart) / len(apart), 'ecr1': hardest(target(cam2), normalised(view1.refined[0])),
            'ecr2': hardest(target(cam1), normalised(view2.refined[0]))}


@pytest.mark.parametrize('labels', [[1, 0, 1], [0, 0, 0]])
def test_seam_losses_equal_slow_loop(labels):
    view1, view2 = exact_view(1, 4, 3, 3), exact_view(1, 4, 3, 3, seed=7)
    losses = {name: loss.item() for name, loss in seam_losses(view1, view2, torch.tensor([labels])).items()}
    assert losses == pytest.approx(slow_seam_losses(view1, view2, labels))


def test_seam_losses_of_a_batch_are_the_mean_of_its_images():
    view1, view2 = exact_view(3, 4, 11, 9), exact_view(3, 4, 5, 3, seed=7)
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    single = [seam_losses(SeamOutput(*(m[n:n + 1] for m in view1)), SeamOutput(*(m[n:n + 1] for m in view2)),
                          labels[n:n + 1]) for n in range(3)]
    for name, loss in seam_losses(view1, view2, labels).items():
        torch.testing.assert_close(loss, torch.stack([terms[name] for terms in single]).mean())


def test_consistency_targets_are_constant_and_inputs_untouched():
    view1, view2 = exact_view(2, 3, 8, 8), exact_view(2, 3, 4, 4, seed=7)
    before = [maps.clone() for maps in (*view1, *view2)]
    for maps in (*view1, *view2):
        maps.requires_grad_()
    losses = seam_losses(view1, view2, torch.tensor([[1, 1], [0, 1]]))
    (losses['ecr1'] + losses['ecr2']).backward()
    assert view1.cam.grad is None and view2.cam.grad is None
    assert view1.refined.grad.any() and view2.refined.grad.any()
    assert all(torch.equal(a, b) for a, b in zip(before, (*view1, *view2)))


def test_seam_losses_gradient_is_right():
    fixed1, fixed2, labels = exact_view(1, 3, 5, 4), exact_view(1, 3, 3, 2, seed=7), torch.tensor([[1, 1]])

    def losses(cam1, refined1, refined2):
        view1, view2 = fixed1._replace(cam=cam1, refined=refined1), fixed2._replace(refined=refined2)
        terms = seam_losses(view1, view2, labels)
        return terms['er'], seam_losses(fixed1, view2, labels)['ecr2'], seam_losses(view1, fixed2, labels)['ecr1']

    inputs = [maps.clone().requires_grad_() for maps in (fixed1.cam, fixed1.refined, fixed2.refined)]
    assert torch.autograd.gradcheck(lambda *maps: losses(*maps)[0], inputs[:1] + [m.detach() for m in inputs[1:]])
    assert torch.autograd.gradcheck(lambda *maps: losses(fixed1.cam, *maps)[1:], inputs[1:])
