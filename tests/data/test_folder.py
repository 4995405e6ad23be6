"""Class folders and zips of them: what is read, and everything that is refused."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tersa.data import fingerprint, folder, load
from tersa.errors import DataError

Files = dict[str, bytes]
Make = Callable[..., Files]
Write = Callable[[Path, Files], Path]


def test_folder_and_zip_give_the_same_task(
    tmp_path: Path, class_files: Make, write_folder: Write, write_zip: Write
) -> None:
    files = class_files()
    one = load(str(write_folder(tmp_path / "pets", files)))
    two = load(str(write_zip(tmp_path / "pets.zip", files)))
    assert one.classes == two.classes == ("cat", "dog")
    assert one.shape == two.shape == (1, 4, 6)
    assert (len(one.train), len(one.validation), len(one.test)) == (8, 2, 4)
    for split in ("train", "validation", "test"):
        assert torch.equal(getattr(one, split).images, getattr(two, split).images)
        assert torch.equal(getattr(one, split).labels, getattr(two, split).labels)
    assert one.provenance.source == "folder"


def test_pixels_are_those_of_the_files(
    tmp_path: Path, class_files: Make, write_zip: Write, pattern: Callable[..., np.ndarray]
) -> None:
    task = load(str(write_zip(tmp_path / "pets.zip", class_files())))
    np.testing.assert_array_equal(task.test.images[0, 0].numpy(), pattern(4, 6, seed=50))
    np.testing.assert_array_equal(task.test.images[3, 0].numpy(), pattern(4, 6, seed=151))
    assert task.test.labels.tolist() == [0, 0, 1, 1]


def test_colour_is_channels_first(
    tmp_path: Path, class_files: Make, write_zip: Write, pattern: Callable[..., np.ndarray]
) -> None:
    task = load(str(write_zip(tmp_path / "pets.zip", class_files(size=(4, 6, 3)))))
    assert task.shape == (3, 4, 6)
    np.testing.assert_array_equal(task.test.images[0].numpy(), pattern(4, 6, 3, seed=50).transpose(2, 0, 1))


def test_one_colour_image_makes_the_task_colour(
    tmp_path: Path,
    class_files: Make,
    write_zip: Write,
    png_bytes: Callable[..., bytes],
    pattern: Callable[..., np.ndarray],
) -> None:
    files = class_files()
    files["train/dog/3.png"] = png_bytes(pattern(4, 6, 3))
    task = load(str(write_zip(tmp_path / "pets.zip", files)))
    assert task.shape == (3, 4, 6)
    assert torch.equal(task.test.images[0, 0], task.test.images[0, 2])


def test_a_folder_around_everything_and_foreign_files_do_no_harm(
    tmp_path: Path, class_files: Make, write_zip: Write, caplog: pytest.LogCaptureFixture
) -> None:
    files = {f"pets/{name}": data for name, data in class_files().items()}
    files |= {
        "LICENCE": b"beside the folder",
        "__MACOSX/pets/train/cat/._1.png": b"x",
        "pets/train/cat/.DS_Store": b"x",
        "pets/train/cat/notes.txt": b"x",
    }
    task = load(str(write_zip(tmp_path / "pets.zip", files)))
    assert len(task.train) + len(task.validation) == 10
    assert "1 files that are not" in caplog.text


def test_a_renamed_zip_is_the_same_task(tmp_path: Path, class_files: Make, write_zip: Write) -> None:
    path = write_zip(tmp_path / "pets.zip", class_files() | {"README.md": b"a file beside the folders"})
    one = load(str(path))
    two = load(str(path.rename(tmp_path / "animals.zip")))
    assert fingerprint(one) == fingerprint(two)


def test_few_images_in_many_classes_leave_one_of_each(
    tmp_path: Path, class_files: Make, write_zip: Write
) -> None:
    files = class_files(tuple("abcdef"), train=1, test=1) | {
        "train/a/9.png": class_files()["train/cat/1.png"]
    }
    task = load(str(write_zip(tmp_path / "pets.zip", files)))
    assert (len(task.train), len(task.validation)) == (6, 1)
    assert sorted(set(task.train.labels.tolist())) == list(range(6))


def test_this_folder_is_a_path_too(
    tmp_path: Path, class_files: Make, write_folder: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_folder(tmp_path / "pets", class_files()))
    assert list(load(".").provenance.sha256) == ["pets"]


def test_a_validation_folder_is_used_and_not_cut_again(
    tmp_path: Path, class_files: Make, write_folder: Write
) -> None:
    files = class_files()
    files |= {name.replace("test/", "val/"): data for name, data in files.items() if name.startswith("test/")}
    task = load(str(write_folder(tmp_path / "pets", files)))
    assert (len(task.train), len(task.validation), len(task.test)) == (10, 4, 4)
    with pytest.raises(Exception, match="has a validation split of its own"):
        load(str(tmp_path / "pets"), validation=2)


def test_numbers_are_in_numerical_order() -> None:
    names = [f"{split}/{label}/1.png" for split in ("train", "test") for label in (10, 2, 1)]
    assert folder.arrange(names, "x").classes == ("1", "2", "10")


def test_upper_case_suffixes_count() -> None:
    names = [
        f"{split}/{label}/1.{s}" for split in ("train", "test") for label, s in (("a", "PNG"), ("b", "Jpeg"))
    ]
    assert len(folder.arrange(names, "x").items) == 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_eight_bit_kind_is_read(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (200, 30, 60)).convert(mode).save(buffer, format="PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = folder.decode_image(buffer.getvalue(), "x")
    assert image.shape == ((1 if mode in folder.GREY else 3), 2, 3)
    assert image.dtype == np.uint8


def test_sixteen_bits_are_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 3), 4000, np.uint16)).save(buffer, format="PNG")
    with pytest.raises(DataError, match=r"x: pixel format I;16; allowed: .* \(8 bits\)"):
        folder.decode_image(buffer.getvalue(), "x")


def test_a_huge_image_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch, png_bytes: Callable[..., bytes]
) -> None:
    monkeypatch.setattr(folder, "MAX_PIXELS", 5)
    with pytest.raises(DataError, match="3x2 pixels; allowed: 5 in all"):
        folder.decode_image(png_bytes(np.zeros((2, 3), np.uint8)), "x")


def drop_test(files: Files) -> Files:
    return {name: data for name, data in files.items() if name.startswith("train/")}


def drop_train(files: Files) -> Files:
    return {name: data for name, data in files.items() if name.startswith("test/")}


def truncated(files: Files) -> Files:
    return files | {"train/dog/2.png": files["train/dog/2.png"][:40]}


WRONG = [
    (drop_test, "no class folders in test/; expected test/CLASS/.*found: train"),
    (drop_train, "no class folders in train/"),
    (lambda f: {"readme.txt": b"hello"}, "no class folders in train/"),
    (lambda f: f | {"test/cow/1.png": f["test/dog/1.png"]}, "class 'cow' of test is not in train"),
    (lambda f: f | {"train/cow/": b""}, "class 'cow' of train is empty"),
    (lambda f: f | {"test/dog/x.txt": b"", "train/cow/readme.txt": b""}, "class 'cow' of train is empty"),
    (truncated, "train/dog/2.png: cannot be decoded"),
    (lambda f: f | {"train/dog/2.png": b"GIF89a"}, "cannot be decoded: not a PNG or JPEG image"),
    (lambda f: {k: v for k, v in f.items() if "dog" not in k}, "1 class found; a task needs two or more"),
]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_content_is_refused_in_one_line(
    tmp_path: Path,
    class_files: Make,
    write_folder: Write,
    write_zip: Write,
    change: Callable[[Files], Files],
    message: str,
    zipped: bool,
    leftovers: Callable[[], list[str]],
) -> None:
    files = change(class_files())
    if zipped:
        path = write_zip(tmp_path / "pets.zip", files)
    else:
        path = write_folder(tmp_path / "pets", {k: v for k, v in files.items() if not k.endswith("/")})
        for name in files:
            (path / name).mkdir(parents=True, exist_ok=True) if name.endswith("/") else None
    with pytest.raises(DataError, match=message) as caught:
        load(str(path))
    assert "\n" not in str(caught.value)
    assert leftovers() == []


def test_an_image_of_another_size_is_named(
    tmp_path: Path,
    class_files: Make,
    write_zip: Write,
    png_bytes: Callable[..., bytes],
    leftovers: Callable[[], list[str]],
) -> None:
    files = class_files() | {"train/dog/9.png": png_bytes(np.zeros((5, 6), np.uint8))}
    with pytest.raises(DataError, match=r"train/dog/9.png is 6x5 \(width x height\), train/cat/0.png is 6x4"):
        load(str(write_zip(tmp_path / "pets.zip", files)))
    assert leftovers() == []


@pytest.mark.parametrize(
    "name", ["../evil.png", "train/../../evil.png", "/etc/evil.png", "C:/evil.png", "train\\cat\\1.png"]
)
def test_an_unsafe_zip_is_refused(tmp_path: Path, class_files: Make, write_zip: Write, name: str) -> None:
    path = write_zip(tmp_path / "pets.zip", class_files() | {name: b"x"})
    with pytest.raises(DataError, match="unsafe name"):
        load(str(path))
    assert not list(tmp_path.rglob("evil.png"))


@pytest.mark.parametrize(
    ("limit", "message"),
    [("MAX_TOTAL_BYTES", "bytes when unpacked"), ("MAX_MEMBER_BYTES", "has 1000000 bytes")],
)
def test_a_zip_bomb_is_refused(
    tmp_path: Path,
    class_files: Make,
    write_zip: Write,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    message: str,
) -> None:
    path = write_zip(tmp_path / "pets.zip", class_files() | {"train/cat/b.png": bytes(1_000_000)})
    monkeypatch.setattr(folder, limit, 900_000)
    with pytest.raises(DataError, match=message):
        load(str(path))


@pytest.mark.parametrize("keep", [0, 30, -10])
def test_a_truncated_zip_is_refused(tmp_path: Path, class_files: Make, write_zip: Write, keep: int) -> None:
    path = write_zip(tmp_path / "pets.zip", class_files())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="damaged zip file"):
        load(str(path))


def test_a_flipped_bit_in_a_zip_is_noticed(tmp_path: Path, class_files: Make) -> None:
    path = tmp_path / "pets.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in class_files().items():
            archive.writestr(name, data)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="damaged zip file"):
        load(str(path))


def test_an_encrypted_zip_is_refused(tmp_path: Path, class_files: Make, write_zip: Write) -> None:
    path = write_zip(tmp_path / "pets.zip", class_files())
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1  # flag bits of the last entry of the central directory
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="encrypted; unpack it yourself"):
        load(str(path))


def test_an_image_that_is_changed_in_place_is_read_again(
    tmp_path: Path, class_files: Make, write_folder: Write
) -> None:
    files = class_files()
    root = write_folder(tmp_path / "pets", files)
    before = load(str(root))
    write_folder(root, {"test/cat/0.png": files["test/dog/1.png"]})
    after = load(str(root))
    assert not torch.equal(before.test.images[0], after.test.images[0])
    assert before.provenance.sha256 != after.provenance.sha256


def turned_jpeg(orientation: int, kind: str = "JPEG") -> bytes:
    """An image that is bright on top when it is shown as its EXIF says, 24 pixels high and 8 wide."""
    shown = np.zeros((24, 8), np.uint8)
    shown[:8] = 255
    back = folder.TURNED.get(orientation)
    inverse = {Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270}
    inverse |= {after: before for before, after in inverse.items()}
    stored = Image.fromarray(shown)
    stored = stored if back is None else stored.transpose(inverse.get(back, back))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, format=kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(10))
def test_images_are_upright(orientation: int, kind: str) -> None:
    data = turned_jpeg(orientation, kind)
    image = folder.decode_image(data, "x")
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(image[0], upright)
    assert image.shape == (1, 24, 8)
    assert image[0, :8].min() > 250 > 5 > image[0, 8:].max()


def test_a_folder_of_turned_images_is_one_size(
    tmp_path: Path, class_files: Make, write_folder: Write
) -> None:
    files = class_files(size=(24, 8)) | {"test/cat/0.jpg": turned_jpeg(6)}
    task = load(str(write_folder(tmp_path / "pets", files)))
    assert task.shape == (1, 24, 8)
    assert task.test.images[0, 0, :8].min() > 250


def test_damaged_exif_does_no_harm() -> None:
    data = turned_jpeg(1)
    place = data.index(b"Exif\0\0") + 6
    harmed = data[:place] + b"\xff" * 8 + data[place + 8 :]
    np.testing.assert_array_equal(folder.decode_image(harmed, "x"), folder.decode_image(data, "x"))
