"""Plain textbook forms of the stages: inference, the training step, the walk, scores. Short, correct, slow."""
import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tool.camloss import adaptive_min_pooling, classification_loss, seam_losses, second_view
from tool.evalutils import PUBLISHED, THRESHOLDS, TOLERANCE
from tool.imutils import IGNORED, normalise, resize_bicubic, scaled_size
from tool.probutils import EPS, fsl_images, fsl_loss_plain, fsl_maps, isl_loss_plain
from tool.seamutils import SeamOutput, class_seed, resize


def pixel_correlation_plain(features: Tensor, seed: Tensor) -> Tensor:
    """What tool.seamutils.pixel_correlation computes, with the matrix of all pairs of pixels."""
    flat = features.flatten(2)
    unit = flat / (flat.norm(dim=1, keepdim=True) + EPS)                    # [N,c,hw]
    similarity = F.relu(unit.transpose(1, 2) @ unit)                        # [N,hw,hw]
    weights = similarity / (similarity.sum(1, keepdim=True) + EPS)          # every column sums to 1
    return (seed.detach().flatten(2) @ weights).view_as(seed)


def seam_forward(network: nn.Module, images: Tensor) -> SeamOutput:
    """What Seam.forward computes, with that pixel correlation."""
    taps = network.backbone(images)
    logits = network.fc8(network.dropout(taps['conv6']))
    refined = pixel_correlation_plain(network.correlation_features(images, taps), class_seed(logits))
    size = images.shape[-2:]
    return SeamOutput(resize(logits, size), resize(refined, size), logits)


@torch.no_grad()
def infer_cams(network: nn.Module, image: np.ndarray, present: np.ndarray, scales: Sequence[float],
               device: torch.device) -> np.ndarray:
    """CAMs [k,H,W] of the classes present: every scale and mirror alone, all classes, summed and stretched."""
    height, width = image.shape[:2]
    total = np.zeros((network.fc8.out_channels - 1, height, width), np.float32)
    for scale in scales:
        view = normalise(resize_bicubic(image, *scaled_size(height, width, scale)), network.backbone.norm)
        for mirrored in (False, True):
            batch = torch.from_numpy(view[None, :, :, ::-1].copy() if mirrored else view[None]).to(device)
            maps = seam_forward(network, batch).refined[:, 1:]
            maps = F.interpolate(maps, (height, width), mode='bilinear', align_corners=False)[0].cpu().numpy()
            total += maps[:, :, ::-1] if mirrored else maps
    total = np.maximum(total, 0)[present]
    low, high = total.min((1, 2), keepdims=True), total.max((1, 2), keepdims=True)
    total[total < low + EPS] = 0
    return ((total - low - EPS) / (high - low + EPS)).clip(0, 1)


def cam_terms(network: nn.Module, images: Tensor, image_labels: Tensor, norm) -> dict[str, Tensor]:
    """Terms of the CAM objective at the published settings, with the textbook forms of both losses."""
    view1, view2 = seam_forward(network, images), seam_forward(network, second_view(images))
    terms = {'isl': isl_loss_plain(view1.logits[:, 1:], image_labels)}
    cls1 = 0.8 * classification_loss(view1.cam, image_labels) + 0.2 * terms['isl']
    terms['cls2'] = classification_loss(view2.cam, image_labels)
    present = image_labels[:, :, None, None]
    for number, view in ((1, view1), (2, view2)):
        terms[f'rvmin{number}'] = adaptive_min_pooling(view.refined[:, 1:] * present)
    terms |= seam_losses(view1, view2, image_labels)
    cam = fsl_maps(view1.logits[:, 1:], image_labels)
    terms['fsl'] = fsl_loss_plain(cam, fsl_images(images, cam.shape[2:], *norm))
    cls = (cls1 + terms['cls2']) / 2 + (terms['rvmin1'] + terms['rvmin2']) / 2
    return terms | {'loss': cls + terms['er'] + terms['ecr1'] + terms['ecr2'] + terms['fsl']}


def random_walk(affinity: Tensor, offsets: Sequence[tuple[int, int]], size: tuple[int, int], cam: Tensor,
                beta: float = 8, log_steps: int = 6) -> Tensor:
    """cam [r,h,w] times T^(2^log_steps): a dense T from affinities [offsets,positions], squared log_steps times."""
    height, width = size
    reach = max(dy for dy, _ in offsets)
    pixels = torch.arange(height * width, device=cam.device).view(size)
    source = pixels[:height - reach, reach:width - reach].flatten()
    matrix = torch.eye(height * width, device=cam.device)
    for values, (dy, dx) in zip(affinity, offsets):
        matrix[source, source + dy * width + dx] = values
        matrix[source + dy * width + dx, source] = values
    matrix = matrix ** beta
    matrix = matrix / matrix.sum(0, keepdim=True)
    for _ in range(log_steps):
        matrix = matrix @ matrix
    return (cam.flatten(1) @ matrix).view_as(cam)


def curve(images: Sequence[tuple[np.ndarray, Sequence[int], np.ndarray]], num_classes: int,
          label_of: Callable[[Sequence[int], np.ndarray, float], np.ndarray]) -> np.ndarray:
    """IoU [PUBLISHED,C] of (truth, keys, CAM)s: one evaluation of all images for each threshold."""
    rows = []
    for threshold in THRESHOLDS[:PUBLISHED]:
        confusion = np.zeros((num_classes, num_classes), np.int64)
        for truth, keys, cam in images:
            predicted, valid = label_of(keys, cam, threshold), truth != IGNORED
            pairs = num_classes * truth[valid].astype(np.int64) + predicted[valid]
            confusion += np.bincount(pairs, minlength=num_classes ** 2).reshape(num_classes, num_classes)
        hit = confusion.diagonal()
        rows.append(hit / (confusion.sum(0) + confusion.sum(1) - hit + 1e-10))
    return np.stack(rows)


def label_map(keys: Sequence[int], cam: np.ndarray, threshold: float) -> np.ndarray:
    """Label map of CAMs [k,H,W] against a constant background score: argmax of them all."""
    background = np.full((1, *cam.shape[1:]), threshold, np.float32)
    return np.array([0, *(key + 1 for key in keys)])[np.concatenate([background, cam]).argmax(0)]


def contour_matches(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts [C - 1,4] of the contour measure, for every class over the whole image."""
    radius = math.ceil(TOLERANCE * math.hypot(*truth.shape))
    y, x = np.ogrid[-radius:radius + 1, -radius:radius + 1]
    element = (x * x + y * y <= radius * radius).astype(np.uint8)
    truth = np.where(truth == IGNORED, 0, truth)
    rows = []
    for label in range(1, num_classes):
        edges = [_boundary(mask == label) for mask in (predicted, truth)]
        near = [cv2.dilate(edge.astype(np.uint8), element).astype(bool) for edge in reversed(edges)]
        rows.append([plane.sum() for edge, other in zip(edges, near) for plane in (edge & other, edge)])
    return np.array(rows)


def _boundary(mask):
    right, below, corner = (np.zeros_like(mask) for _ in range(3))
    right[:, :-1], below[:-1], corner[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    edge = (mask ^ right) | (mask ^ below) | (mask ^ corner)
    edge[-1], edge[:, -1] = mask[-1] ^ right[-1], mask[:, -1] ^ below[:, -1]
    edge[-1, -1] = False
    return edge
