"""Input size and pooling over the object's box: against plain loops, timm itself, and the model without them."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from backbones.backbone import pool_boxes
from common.messages import UsageError, UserError
from embedding import extraction, query_images
from embedding.embedder import load

VIT = "vit_tiny_patch16_224"
BOXES = np.array([[0, 0, 1, 1], [0.1, 0.3, 0.55, 0.9], [0.5, 0.5, 0.51, 0.52], [0, 0.25, 0.5, 1]], np.float32)


def over_box(cells: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The mean of the cells (h, w, dim) over a box, cell by cell."""
    high, wide, dim = cells.shape
    total, area = np.zeros(dim), 0.0
    for row in range(high):
        for column in range(wide):
            across = min(box[2], (column + 1) / wide) - max(box[0], column / wide)
            down = min(box[3], (row + 1) / high) - max(box[1], row / high)
            if across > 0 and down > 0:
                total, area = total + across * down * cells[row, column], area + across * down
    return total / area


def noise(n: int, side: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (n, side, side, 3), np.uint8)


def normalised(pixels: np.ndarray, preprocess) -> torch.Tensor:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (images - torch.tensor(preprocess.mean).view(1, 3, 1, 1)) / torch.tensor(preprocess.std).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def boxed():
    return load("lite0", pooling="box", precision="fp32", device="cpu")


def test_cells_weigh_as_much_as_the_box_covers_of_them():
    cells = torch.tensor([[1.0, 2.0], [4.0, 8.0]]).view(1, 2, 2, 1)
    by_hand = {(0, 0, 1, 1): 15 / 4, (0.25, 0, 0.75, 0.5): 1.5, (0.5, 0.25, 1, 1): (0.25 * 2 + 0.5 * 8) / 0.75}
    for box, expected in by_hand.items():
        assert pool_boxes(cells, torch.tensor([box])).item() == pytest.approx(expected)
    cells = np.random.default_rng(0).normal(size=(4, 7, 5, 3)).astype(np.float32)
    found = pool_boxes(torch.from_numpy(cells), torch.from_numpy(BOXES)).numpy()
    for row in range(4):
        assert np.allclose(found[row], over_box(cells[row], BOXES[row]), atol=1e-5)


def test_a_convolutional_map_is_pooled_over_the_box(boxed):
    pixels = noise(4, 224)
    plain = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    plain.load_state_dict(boxed._unfolded.module.module.state_dict())
    with torch.no_grad():
        maps = plain.forward_features(normalised(pixels, boxed.preprocess)).permute(0, 2, 3, 1).numpy()
    assert maps.shape == (4, 7, 7, 1280)
    found = boxed(pixels, BOXES)
    for row in range(4):
        assert np.allclose(found[row], over_box(maps[row], BOXES[row]), atol=1e-3 * np.abs(maps).max())
    assert np.allclose(found[0], boxed(pixels[:1])[0], atol=1e-4)  # the whole image


def test_patch_tokens_are_pooled_over_the_box_without_the_class_token():
    embedder = load(VIT, weights="random", pooling="box", precision="fp32", device="cpu")
    pixels = noise(4, 224)
    plain = timm.create_model(VIT, num_classes=0).eval()
    plain.load_state_dict(embedder._unfolded.module.module.state_dict())
    with torch.no_grad():
        tokens = plain.forward_features(normalised(pixels, embedder.preprocess))[:, 1:].numpy()
    found = embedder(pixels, BOXES)
    for row in range(4):
        assert np.allclose(found[row], over_box(tokens[row].reshape(14, 14, -1), BOXES[row]), atol=1e-4)


def test_a_transformer_takes_another_size_as_timm_makes_it():
    embedder = load(VIT, weights="random", image_size=96, precision="fp32", device="cpu")
    own = load(VIT, weights="random", precision="fp32", device="cpu")
    plain = timm.create_model(VIT, num_classes=0, img_size=96).eval()
    state = timm.models.vision_transformer.checkpoint_filter_fn(own._unfolded.module.module.state_dict(), plain)
    plain.load_state_dict(state)
    pixels = noise(2, 96)
    with torch.no_grad():
        expected = plain(normalised(pixels, embedder.preprocess)).numpy()
    assert np.allclose(embedder(pixels), expected, atol=1e-4)
    assert embedder.base_fingerprint == own.fingerprint != embedder.fingerprint
    with pytest.raises(UsageError, match="has patches of 16 pixels; give --image_size 96 or 112"):
        load(VIT, weights="random", image_size=100)
    with pytest.raises(UsageError, match="takes images of one size only"):
        load(VIT, weights="random", image_size="crop")


def test_variants_share_the_fingerprint_of_their_weights(boxed):
    own, larger = (load("lite0", image_size=size, precision="fp32") for size in (None, 314))
    assert boxed.base_fingerprint == larger.base_fingerprint == own.base_fingerprint == own.fingerprint
    assert len({boxed.fingerprint, larger.fingerprint, own.fingerprint}) == 3
    assert (larger.preprocess.height, larger.options["image_size"]) == (314, 314)


def test_crops_at_their_own_sizes_are_what_each_gives_alone(tmp_path):
    embedder = load("resnet10t", weights="random", image_size="crop", pooling="mean", precision="fp32", device="cpu")
    pixels, paths = np.random.default_rng(0), []
    for number, size in enumerate([(64, 48), (80, 80), (64, 48), (33, 97), (80, 80), (64, 48), (1, 1)]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels.integers(0, 256, (*size, 3), np.uint8)).save(paths[-1])
    (tmp_path / "2.png").write_bytes(b"damaged")
    batches = list(embedder.embed(paths, batch_size=4, workers=2))
    assert [batch.skipped for batch in batches] == [[(2, batches[0].skipped[0][1])], []]
    found = np.concatenate([batch.vectors for batch in batches])
    alone = [embedder(np.asarray(Image.open(path))[None])[0] for path in paths if path.name != "2.png"]
    assert np.allclose(found, alone, rtol=1e-4, atol=1e-5)


def test_a_size_that_the_model_cannot_take_costs_its_own_rows():
    class Picky:
        preprocess = load("siamese", weights="random", image_size="crop").preprocess

        def __call__(self, batch, boxes=None):
            if batch.shape[1] < 4:
                raise RuntimeError("kernel larger than input")
            return batch.mean((1, 2)).astype(np.float32)

    images = [
        np.full((8, 8, 3), 7, np.uint8),
        np.zeros((2, 2, 3), np.uint8),
        "damaged",
        np.full((6, 8, 3), 9, np.uint8),
    ]
    loaded, vectors = extraction.run(Picky(), images, 8)
    batch = extraction.outcome(range(4), loaded, vectors)
    assert batch.vectors.tolist() == [[7, 7, 7], [9, 9, 9]]
    assert batch.skipped == [(1, "the model cannot take 2 x 2 pixels"), (2, "damaged")]


def test_what_cannot_be_combined_is_one_sentence():
    with pytest.raises(UsageError, match="leave --resize_mode away"):
        load(image_size="crop", resize_mode="letterbox")
    with pytest.raises(UsageError, match="leave --resize_mode away"):
        load(pooling="box", resize_mode="letterbox")
    with pytest.raises(UserError, match="is no input size"):
        load(image_size="large")
    options = {"pooling": "box", "layer": None, "resize_mode": "squash"}
    with pytest.raises(UserError, match="--pooling box, and where the object lies in a new picture is not known"):
        query_images.recorded_model({"model": "tf_efficientnet_lite0", "model_options": options}, "x.npz")


def test_a_query_picture_goes_through_the_recorded_variant():
    options = {"pooling": None, "layer": None, "resize_mode": "squash", "image_size": 160}
    made = load("lite0", image_size=160, precision="fp32")
    about = {"model": made.spec, "model_options": options, "fingerprint": made.fingerprint}
    again = query_images.recorded_model(about, "x.npz")
    assert again.preprocess == made.preprocess
