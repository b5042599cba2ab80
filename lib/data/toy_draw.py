"""Drawing for the toy set: background, objects, occlusion, and their mask.

An object is a body with the outline of its class, in a random colour, and a head that shows the class's texture
strongly; the body carries a faint copy of it. A classifier looks at the head, so that a plain class activation map
covers part of an object and refinement has something to do. How faint the copy is (BODY_CONTRAST) sets the difficulty.
Clutter, saturated distractors and bars across the objects keep colour and position from giving the class away.
"""
import cv2
import numpy as np

from lib.data.toy_shapes import SHAPES
from tool.imutils import IGNORED

CLASSES = tuple(SHAPES)
LONG_SIDE, SHORT_SIDES = 128, (92, 112)
PORTRAIT = 0.3                          # fraction of portrait images
OBJECTS = (0.5, 0.37, 0.13)             # probabilities of 1, 2 and 3 objects
BODY_CONTRAST = (24, 36)                # strength of the texture on the body, grey levels
HEAD_CONTRAST = (70, 110)
MIN_VISIBLE = 0.55                      # fraction of an object, once later ones and the bar are drawn
SPLITS = {'train': 0, 'val': 1}


def draw(seed: int, split: str, index: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Draw one image; the same arguments give the same image.

    Returns:
        image uint8 [H, W, 3]; mask uint8 [H, W] with 0 background, 1 + class index, 255 along the outlines;
        names of its classes, in label order.
    """
    rng = np.random.default_rng((seed, SPLITS[split], index))
    height, width = int(rng.integers(*SHORT_SIDES, endpoint=True)), LONG_SIDE
    if rng.random() < PORTRAIT:
        height, width = width, height
    image = _background(rng, height, width)
    mask = np.zeros((height, width), np.uint8)
    image, mask = _draw_objects(rng, image, mask)
    names = [CLASSES[value - 1] for value in np.unique(mask) if value]
    kernel = np.ones((3, 3), np.uint8)
    rim = cv2.dilate(mask, kernel) != cv2.erode(mask, kernel)
    return _photo(rng, image), np.where(rim, np.uint8(IGNORED), mask), names


def close_ups(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw parts of single objects, one class each, or background: a classification set for toy pretraining.

    Half of the parts show the head, the others any part of the body, so that the faint texture is learned as well.
    Without background on its own, it would be evidence for one of the classes.

    Returns:
        images uint8 [count, size, size, 3]; labels int64 [count], class indices from 0, and last background.
    """
    rng = np.random.default_rng((seed, len(SPLITS)))
    labels = rng.integers(len(CLASSES) + 1, size=count)
    images = np.empty((count, size, size, 3), np.uint8)
    for i, label in enumerate(labels):
        image = _background(rng, size, size)
        if label == len(CLASSES):
            images[i] = _photo(rng, image)
            continue
        middle = size * rng.uniform(0.4, 0.6, 2)
        half_length = size * np.exp(rng.uniform(*np.log((0.4, 1.4))))
        part = SHAPES[CLASSES[label]].head[0] if i % 2 else rng.uniform(-0.6, 0.6)
        figure = _figure(rng, CLASSES[label], half_length, middle, size, size, part)
        images[i] = _photo(rng, _blend(image, *figure))
    return images, labels


def _draw_objects(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw 1 to 3 objects and perhaps a bar, none of which may hide too much of an earlier object."""
    height, width = mask.shape
    count = 1 + int(rng.choice(len(OBJECTS), p=OBJECTS))
    shrink = 1 + 0.22 * (count - 1)
    owner, areas = np.zeros_like(mask), []                      # which object a pixel shows; full size of each object

    def add(figure: tuple[np.ndarray, np.ndarray], number: int, value: int) -> bool:
        nonlocal image, mask, owner
        inside = figure[1] >= 0.5
        left = np.where(inside, 0, owner)
        if any((left == earlier).sum() < MIN_VISIBLE * area for earlier, area in enumerate(areas, 1)):
            return False
        image, mask = _blend(image, *figure), np.where(inside, np.uint8(value), mask)
        owner = np.where(inside, np.uint8(number), owner)
        areas.append(inside.sum())
        return True

    for number in range(1, count + 1):
        class_index = int(rng.integers(len(CLASSES)))
        for _ in range(12):
            half_length = rng.uniform(0.3, 0.5) * min(height, width) / shrink
            centre = np.array([width, height]) * rng.uniform(0.22, 0.78, 2)
            if add(_figure(rng, CLASSES[class_index], half_length, centre, height, width), number, class_index + 1):
                break
    if rng.random() < 0.5:
        add(_bar(rng, height, width), 0, 0)
    return image, mask


def _figure(rng: np.random.Generator, name: str, half_length: float, centre: np.ndarray, height: int, width: int,
            part: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """One object as (colours float32 [H, W, 3], opacity float32 [H, W]), its point (part, 0) at `centre` (x, y)."""
    shape = SHAPES[name]
    head_x, head_width, head_height = shape.head
    angle, mirror = np.deg2rad(rng.uniform(-30, 30)), rng.choice((-1, 1))
    aspect = rng.uniform(0.85, 1.2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = turn @ np.diag([mirror * half_length, half_length * aspect])          # object to image coordinates
    centre = centre - forward @ (part, 0)
    opacity = _fill(shape.outline @ forward.T + centre, height, width)

    columns, rows = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in (width, height)), sparse=True)
    columns, rows = columns - np.float32(centre[0]), rows - np.float32(centre[1])
    back = np.linalg.inv(forward).astype(np.float32)
    x = (back[0, 0] * columns + back[0, 1] * rows - head_x) / head_width
    y = (back[1, 0] * columns + back[1, 1] * rows) / head_height
    texture = shape.texture(x, y)[..., None]
    on_head = np.clip((1 - np.hypot(x, y)) * np.float32(half_length * head_width / 1.5) + 0.5, 0, 1)[..., None]
    body = _saturated(rng) + texture * rng.uniform(*BODY_CONTRAST)
    head = rng.uniform(100, 155, 3) + texture * rng.uniform(*HEAD_CONTRAST, 3) * rng.choice((-1, 1), 3)
    return (body + on_head * (head - body)).astype(np.float32), opacity


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Low-saturation noise at two scales with clutter and small saturated distractors, float32 [H, W, 3]."""
    image = np.full((height, width, 3), rng.uniform(80.0, 175.0), np.float32)
    for cells, grey, colour in ((4, 26, 10), (24, 11, 4)):
        noise = rng.normal(0, grey, (cells, cells, 1)) + rng.normal(0, colour, (cells, cells, 3))
        image += cv2.resize(noise.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(4, 10)):
        colour = rng.uniform(50, 205) + rng.normal(0, 14, 3)
        image = _blend(image, colour, 0.8 * _piece(rng, height, width, rng.uniform(0.05, 0.22)))
    for _ in range(rng.integers(1, 4)):
        image = _blend(image, _saturated(rng), _piece(rng, height, width, rng.uniform(0.02, 0.05)))
    return image


def _piece(rng: np.random.Generator, height: int, width: int, size: float) -> np.ndarray:
    """Opacity of an irregular polygon of 3 to 7 corners; `size` is its half length relative to the short side."""
    corners = int(rng.integers(3, 8))
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = size * min(height, width) * rng.uniform(0.5, 1, corners)
    stretch = rng.uniform(0.4, 1, 2)
    centre = rng.uniform(0, 1, 2) * (width, height)
    return _fill(np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None] * stretch + centre, height, width)


def _bar(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A dull bar from border to border, as (colour [3], opacity [H, W])."""
    angle = rng.uniform(0, np.pi)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    centre = rng.uniform(0.3, 0.7, 2) * (width, height)
    long, half = height + width, rng.uniform(2.5, 5)
    corners = [centre + a * long * along + b * half * across for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return rng.uniform(50, 205) + rng.normal(0, 10, 3), _fill(np.array(corners), height, width)


def _fill(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Opacity float32 [H, W] in [0, 1] of a polygon [points, 2] of (x, y), with smooth edges."""
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=4)
    return canvas.astype(np.float32) / 255


def _saturated(rng: np.random.Generator) -> np.ndarray:
    """A random saturated colour, neither black nor white so that a texture shows: RGB [3]."""
    hsv = np.uint8([[[rng.integers(180), rng.integers(140, 231), rng.integers(150, 226)]]])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def _blend(image: np.ndarray, colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    return image + opacity[..., None] * (np.asarray(colours, np.float32) - image)


def _photo(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The image with fine noise, as a camera's, in uint8."""
    return np.clip(image + 4 * rng.standard_normal(image.shape, np.float32) + 0.5, 0, 255).astype(np.uint8)
