// SPDX-License-Identifier: MIT OR Apache-2.0
//! The frames of an image, from header to header.

use super::error::{Damage, StoreError, unread};
use super::format::{FRAME_HEADER, FrameHeader, ImageKind, size};
use super::images::ImageFile;
use super::scan::{Opened, Version};

/// Bytes which are read at a time.
pub(crate) const CHUNK: usize = 1 << 20;

fn read_header(
    image: &ImageFile,
    name: &str,
    offset: u64,
) -> Result<Option<(FrameHeader, [u8; FRAME_HEADER])>, StoreError> {
    let mut bytes = [0; FRAME_HEADER];
    let got = image
        .file
        .read_at(&mut bytes, offset)
        .map_err(|error| unread(name, offset, error))?;
    let header = FrameHeader::decode(&bytes[..got], image.seal.as_ref(), offset);
    Ok(header.map(|header| (header, bytes)))
}

/// The versions of an image, and what keeps others from being read.
pub(crate) type Frames = (Vec<Version>, Option<Damage>);

/// Goes from header to header through an image.
pub(crate) fn hop(image: &Opened) -> Result<Frames, StoreError> {
    let end = image.bytes;
    let mut found: Vec<Version> = Vec::new();
    let mut offset = image.header.bytes() as u64;
    let mut chain = image.chain;
    while offset + FRAME_HEADER as u64 <= end {
        let (header, raw) = match read_header(&image.file, &image.name, offset) {
            Ok(Some(header)) => header,
            Ok(None) => break,
            Err(StoreError::Damaged(damage)) => return Ok((found, Some(damage))),
            Err(error) => return Err(error),
        };
        let bytes = FRAME_HEADER as u64 + header.body;
        let last = found
            .last()
            .map_or(image.header.parent_version, |last| last.number);
        // In a base the first one has no predecessor.
        let follows =
            header.previous == last || (found.is_empty() && image.header.kind == ImageKind::Base);
        let sane = header.image == image.header.image
            && follows
            && header.version > header.previous
            && header.floor <= header.image
            && (!image.header.chained() || header.chain == chain)
            && bytes <= end - offset;
        if !sane {
            break;
        }
        chain = chain.then(&raw);
        found.push(Version {
            number: header.version,
            previous: header.previous,
            time: header.time,
            image: header.image,
            offset,
            bytes,
            records: header.records,
            nodes: header.nodes,
            floor: header.floor,
            areas: header.areas,
            chain,
            synced: header.synced,
        });
        offset += bytes;
    }
    Ok((found, None))
}

/// Leaves out what follows the first version whose contents did not reach the
/// disk.
pub(crate) fn intact(
    image: &Opened,
    mut found: Vec<Version>,
    acknowledged: u64,
) -> Result<Frames, StoreError> {
    let synced = found.iter().map(|version| version.synced).max();
    let safe = acknowledged.max(synced.unwrap_or(0));
    let newest = found.last().map_or(0, |last| last.number);
    for at in 0..found.len() {
        // The newest in any case: who opens wants that one.
        let check = found[at].number > safe || found[at].number == newest;
        if !check {
            continue;
        }
        let unread = match body_intact(&image.file, &image.name, &found[at]) {
            Ok(true) => continue,
            Ok(false) => None,
            Err(StoreError::Damaged(damage)) => Some(damage),
            Err(error) => return Err(error),
        };
        found.truncate(at);
        return Ok((found, unread));
    }
    Ok((found, None))
}

/// Whether the contents of a version are what was written.
pub(crate) fn body_intact(
    image: &ImageFile,
    name: &str,
    version: &Version,
) -> Result<bool, StoreError> {
    let Some((header, _)) = read_header(image, name, version.offset)? else {
        return Ok(false);
    };
    let mut crc = 0;
    let mut at = version.offset + FRAME_HEADER as u64;
    let end = version.offset + version.bytes;
    let mut buffer = vec![0; CHUNK.min(size(end.saturating_sub(at)))];
    while at < end {
        let want = CHUNK.min(size(end - at));
        let got = image
            .file
            .read_at(&mut buffer[..want], at)
            .map_err(|error| unread(name, at, error))?;
        if got < want {
            return Ok(false);
        }
        crc = crc32c::crc32c_append(crc, &buffer[..want]);
        at += want as u64;
    }
    Ok(crc == header.body_crc)
}
