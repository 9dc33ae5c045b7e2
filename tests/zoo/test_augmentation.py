from collections import Counter

import pytest
import torch

import lossnav as ln


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(n, channels=3, side=8):
    """Images in which every pixel is another number above zero, the same in all of them."""
    return torch.arange(1.0, channels * side * side + 1).reshape(1, channels, side, side).expand(n, -1, -1, -1)


def where(cut, image, padding, black):
    """Which (top, left, mirrored) makes this of an image, tried one by one."""
    channels, side = image.shape[0], image.shape[1]
    padded = torch.tensor(black).reshape(-1, 1, 1).expand(channels, side + 2 * padding, side + 2 * padding).clone()
    padded[:, padding : padding + side, padding : padding + side] = image
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = padded[:, top : top + side, left : left + side]
            for mirrored in (False, True):
                if torch.equal(cut, window.flip(2) if mirrored else window):
                    return top, left, mirrored
    return None


def test_every_image_is_a_window_of_its_padded_self_mirrored_or_not():
    black = (-1.0, -2.0, -3.0)
    images = numbered(1500) * torch.arange(1, 1501).reshape(-1, 1, 1, 1)  # each image another one
    before = images.clone()
    made = ln.zoo.crop_and_flip(images, generator(), padding=2, black=black)
    assert made.shape == images.shape
    assert torch.equal(images, before)
    seen = Counter(where(cut, image, 2, black) for cut, image in zip(made[:400], images[:400], strict=True))
    assert None not in seen
    assert len(seen) == 50  # each of 25 places, mirrored or not
    assert max(seen.values()) < 4 * 400 / 50
    mirrored = sum(n for (_, _, flipped), n in seen.items() if flipped)
    assert 150 < mirrored < 250  # five standard deviations


def test_the_seed_makes_the_augmentation_and_leaves_the_world_alone():
    images, before = numbered(20), torch.get_rng_state()
    a, b, c = (ln.zoo.crop_and_flip(images, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_one_channel_and_no_padding():
    image = numbered(64, channels=1)
    made = ln.zoo.crop_and_flip(image, generator(), padding=0)
    assert {where(cut, image[0], 0, (0.0,)) for cut in made} == {(0, 0, False), (0, 0, True)}


def test_black_of_normalized_data_is_a_black_pixel():
    images = torch.zeros(2, 3, 4, 4)  # black
    data = ln.zoo.Data("none", (images, torch.zeros(2)), (images, torch.zeros(2)))
    normal = data.normalized((0.5, 0.4, 0.2), (0.1, 0.2, 0.4))
    assert normal.black == pytest.approx((-5.0, -2.0, -0.5))
    assert torch.allclose(normal.test[0][0, :, 0, 0], torch.tensor(normal.black))
    made = ln.zoo.crop_and_flip(normal.train[0], generator(), black=normal.black)
    assert torch.allclose(made, normal.train[0])
    assert not images.any()
