"""The whole CAM objective: its sum, its switches, its edges."""
import pytest
import torch

from tool.camloss import cam_fsl, cam_objective, second_view
from tool.imutils import IMAGENET_NORM
from tool.probutils import fsl_images, fsl_loss
from tool.seamutils import SeamOutput, max_norm, resize, with_background

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


def test_every_output_of_the_network_gets_a_gradient():
    view1, view2 = random_view((40, 32), 1), random_view((12, 9), 2)
    for maps in (*view1, *view2[:2]):
        maps.requires_grad_()
    cam_objective(view1, view2, torch.randn(2, 3, 40, 32), LABELS, norm=IMAGENET_NORM)['loss'].backward()
    assert all(maps.grad.isfinite().all() and maps.grad.any() for maps in (*view1, *view2[:2]))


def test_similarity_term_normalises_the_logits_and_drops_absent_classes():
    logits, images = torch.randn(2, 4, 5, 4), torch.randn(2, 3, 40, 32)
    present = torch.cat([torch.ones(2, 1), LABELS], dim=1)[:, :, None, None]
    cam = with_background(max_norm(logits) * present)
    expected = fsl_loss(cam, fsl_images(images, (5, 4), *IMAGENET_NORM))
    assert torch.equal(cam_fsl(logits, images, LABELS, IMAGENET_NORM), expected)
    # Without any class every pixel is background, and nothing can be apart.
    assert cam_fsl(logits[1:], images[1:], LABELS[1:], IMAGENET_NORM) == 0


@pytest.mark.parametrize('size, expected', [((448, 448), (134, 134)), ((65, 33), (19, 9)), ((2, 1), (1, 1))])
def test_second_view_rounds_down_to_one_pixel_at_least(size, expected):
    assert second_view(torch.rand(1, 3, *size)).shape == (1, 3, *expected)


def test_half_precision_outputs_give_float32_terms():
    view1, view2 = (SeamOutput(*(maps.bfloat16() for maps in random_view(size, 1))) for size in ((16, 24), (8, 8)))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        terms = cam_objective(view1, view2, torch.randn(2, 3, 16, 24), LABELS, norm=IMAGENET_NORM)
    assert {term.dtype for term in terms.values()} == {torch.float32}
