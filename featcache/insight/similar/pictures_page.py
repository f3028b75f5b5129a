"""A page of pictures: an image, and the rows of a cache that are nearest to it."""

from __future__ import annotations

from pathlib import Path

from featcache.core.replace import replace_file
from featcache.insight.cache_images import CacheImages
from featcache.insight.page.document import Section, document
from featcache.insight.page.markup import Content, element, joined, name, paragraph
from featcache.insight.page.pictures import Picture, pictures
from featcache.insight.similar.query import NewImage
from featcache.insight.similar.result import Neighbour, SimilarImages
from featcache.insight.thumbnails import Thumbnail, thumbnail, thumbnail_of


def write_page(path: Path, found: SimilarImages, images: CacheImages, new: NewImage | None) -> None:
    """Write the page.

    Args:
        path: From `place_of_page`.
        found: What it shows.
        images: Of the cache.
        new: The image that was asked about; None for a row of the cache.

    Raises:
        StorageError: If it cannot be written; DiskFullError if there is no room.
    """
    replace_file(path, _page(found, images, new).encode())


def _page(found: SimilarImages, images: CacheImages, new: NewImage | None) -> str:
    if new is not None:
        own = thumbnail_of(new.image)
    else:
        assert found.split is not None, "what is no file is a row"
        assert found.row is not None, "what is no file is a row"
        own = thumbnail(images, found.split, found.row)
    caption = joined(name(found.image), *_about(found.split, found.label))
    asked = _picture(own, found.image, caption, images)
    nearest = [_neighbour(one, images) for one in found.neighbours]
    gone = paragraph(images.reason) if images.reason else None
    where = f"{found.cache.name}, features of {found.backbone}"
    lead = paragraph(f"The {len(nearest)} nearest of {found.n_rows} rows of {where}.")
    sections = [
        Section("image", "The image", pictures([asked], label="The image")),
        Section("nearest", "The nearest rows", pictures(nearest, label="The nearest rows")),
    ]
    return document("Similar images", lead, gone, sections=sections, about="Similar images")


def _neighbour(one: Neighbour, images: CacheImages) -> Picture:
    same = (element("br"), "the same image") if one.is_same_image else ()
    caption = joined(
        f"{one.similarity:.4f}", element("br"), name(one.id), *_about(one.split, one.label), *same
    )
    return _picture(thumbnail(images, one.split, one.row), one.id, caption, images)


def _about(split: str | None, label: str | None) -> tuple[Content, ...]:
    said = [text for text in (label, split) if text is not None]
    return tuple(part for text in said for part in (element("br"), name(text)))


def _picture(picture: Thumbnail, image: str, caption: Content, images: CacheImages) -> Picture:
    """Show a picture, or why there is none, unless the page says that of all."""
    if picture.reason != images.reason:
        caption = joined(caption, element("br"), picture.reason)
    return Picture(picture.uri, image, caption)
