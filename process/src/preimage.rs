// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking the pre-image, and looking whether everything is in it.

use crate::error::Error;
use crate::frozen;
use crate::marks::{Marks, refused};
use crate::open::Open;
use crate::pagemap;
use crate::raw::{Errno, Fd, Path};
use crate::state::State;

/// Takes the pre-image, everything in it. For the agent, while everybody is parked.
///
/// # Errors
/// The kernel refused; marks are as they were.
pub fn copy(state: &State, open: &mut Open) -> Result<i32, Error> {
    open.marks.clear();
    let mut result = Err(refused(Errno(libc::EAGAIN)));
    for _ in 0..3 {
        let child = match frozen::freeze() {
            Ok(child) => child,
            Err(Errno(errno)) => {
                result = Err(Error::Refused {
                    what: "a copy of the process",
                    errno,
                });
                break;
            }
        };
        let before = open.marks.found();
        result = compare(state, child, &mut open.marks).map(|()| child);
        let complete = before == open.marks.found();
        if complete && result.is_ok() {
            break;
        }
        frozen::discard(child);
        if result.is_err() {
            break;
        }
        result = Err(refused(Errno(libc::EAGAIN)));
    }
    let marked = open.marks.mark();
    if let (Ok(child), Err(e)) = (result, marked) {
        frozen::discard(child);
        return Err(e);
    }
    result
}

/// Unmarks what `child` lacks.
fn compare(state: &State, child: i32, marks: &mut Marks) -> Result<(), Error> {
    // SAFETY: the room is the agent's.
    let room = unsafe { state.room.get() };
    let ours = room.read_ours(state.place(), marks).map_err(refused)?;
    let theirs = room.read_theirs(state.place(), child).map_err(refused)?;
    let mut next = room.theirs[..theirs].iter().peekable();
    for m in &room.ours[..ours] {
        while next.next_if(|t| t.end <= m.start).is_some() {}
        if next.peek().is_none_or(|t| t.start > m.start) {
            marks.unmark(m.start, m.end, libc::MADV_DONTFORK)?;
        }
    }
    let open = |pid| Fd::open(Path::proc(pid, "pagemap").as_c_str(), libc::O_RDONLY);
    let (our_map, their_map) = (open(0).map_err(refused)?, open(child).map_err(refused)?);
    // What a copy is to have empty it has empty as a whole: one page of each side says it.
    for m in &room.theirs[..theirs] {
        let any = |map, no_guards: &mut bool| pagemap::any(map, m.start, m.end, no_guards);
        if m.inode == 0
            && !m.shared
            && !any(&their_map, &mut room.no_guards)?
            && any(&our_map, &mut room.no_guards)?
        {
            marks.unmark(m.start, m.end, libc::MADV_WIPEONFORK)?;
        }
    }
    Ok(())
}
