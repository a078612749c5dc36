// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages as they were: which differ is read off the page maps of both processes.

use crate::error::Error;
use crate::maps::Mapping;
use crate::pagemap::{PAGE, broken, is_zero, next, read_at, scan};
use crate::raw::{Errno, call};
use crate::room::CHUNK;
use crate::undo::Undo;

const GUARD_INSTALL: i32 = 102;
const GUARD_REMOVE: i32 = 103;

impl Undo<'_> {
    /// Lists what is populated on both sides. Unmapping and mapping leave places in the list
    /// where nothing is; the page map is asked anyway.
    pub(crate) fn list_regions(&mut self) -> Result<(), Error> {
        let room = &mut *self.room;
        self.our_regions = scan(&self.our_map, &mut room.our_regions, &mut room.no_guards)?;
        self.their_regions = scan(
            &self.their_map,
            &mut room.their_regions,
            &mut room.no_guards,
        )?;
        Ok(())
    }

    pub(crate) fn pages(&mut self) -> Result<(), Error> {
        let (ours, theirs) = (self.our_regions, self.their_regions);
        // Both lists are sorted: walk them together, mapping by mapping.
        for i in 0..self.wanted {
            let c = self.room.theirs[i];
            if c.shared {
                continue;
            }
            let mut at = c.start;
            while at < c.end {
                let Some((start, end)) = next(
                    &self.room.our_regions[..ours],
                    &self.room.their_regions[..theirs],
                    at,
                ) else {
                    break;
                };
                let (start, end) = (start.max(at), end.min(c.end));
                if start >= c.end {
                    break;
                }
                // SAFETY: the list is the agent's.
                let (excluded, end) = unsafe { self.state.excluded.get() }.at(start, end);
                if !excluded {
                    self.range(start, end, &c, ours)?;
                }
                at = end;
            }
        }
        Ok(())
    }

    fn range(&mut self, start: usize, end: usize, c: &Mapping, ours: usize) -> Result<(), Error> {
        let mut at = start;
        while at < end {
            let n = ((end - at) / PAGE).min(CHUNK);
            read_at(
                &self.our_map,
                bytes_of(&mut self.room.our_pages[..n]),
                at / PAGE * 8,
            )?;
            read_at(
                &self.their_map,
                bytes_of(&mut self.room.their_pages[..n]),
                at / PAGE * 8,
            )?;
            let mut run = (Action::Keep, at);
            for k in 0..n {
                let address = at + k * PAGE;
                let action = self.decide(address, k, ours)?;
                if action != run.0 {
                    self.act(run, address, c)?;
                    run = (action, address);
                }
            }
            self.act(run, at + n * PAGE, c)?;
            at += n * PAGE;
        }
        Ok(())
    }

    fn decide(&mut self, address: usize, k: usize, ours: usize) -> Result<Action, Error> {
        let (now, then) = (self.room.our_pages[k], self.room.their_pages[k]);
        if now | then == 0 {
            return Ok(Action::Keep);
        }
        let bit = |entry: u64, n: u32| entry >> n & 1 != 0;
        let mut present = bit(now, 63);
        let mut swapped = bit(now, 62);
        let (file, exclusive) = (bit(now, 61), bit(now, 56));
        match (bit(now, 58), bit(then, 58)) {
            (true, true) => return Ok(Action::Keep),
            (false, true) => {
                return advise(address, PAGE, GUARD_INSTALL)
                    .map(|()| Action::Keep)
                    .map_err(broken("a guard page"));
            }
            (true, false) => {
                advise(address, PAGE, GUARD_REMOVE).map_err(broken("a guard page"))?;
                (present, swapped) = (false, false);
            }
            (false, false) => {}
        }
        let zero =
            present && !file && !exclusive && is_zero(&self.room.our_regions[..ours], address);
        let own_then = (bit(then, 63) && !bit(then, 61)) || bit(then, 62);
        if !own_then {
            let drop = (present && !file && !zero) || swapped;
            return Ok(if drop { Action::Drop } else { Action::Keep });
        }
        if !(present && !file && !exclusive && !zero && !swapped) || bit(then, 56) {
            return Ok(Action::Copy);
        }
        let frame = (1u64 << 55) - 1;
        if now & frame != 0 && then & frame != 0 {
            return Ok(if (now ^ then) & frame != 0 {
                Action::Copy
            } else {
                Action::Keep
            });
        }
        if self.forked {
            let room = &mut *self.room;
            read_at(&self.our_memory, &mut room.our_bytes[..PAGE], address)?;
            read_at(&self.their_memory, &mut room.their_bytes[..PAGE], address)?;
            if room.our_bytes[..PAGE] != room.their_bytes[..PAGE] {
                return Ok(Action::Copy);
            }
        }
        Ok(Action::Keep)
    }

    fn act(
        &mut self,
        (action, start): (Action, usize),
        end: usize,
        c: &Mapping,
    ) -> Result<(), Error> {
        let copy = match action {
            Action::Keep => false,
            Action::Copy => true,
            // Refused where memory is locked: then zeroes, or the file's page, are copied.
            Action::Drop => advise(start, end - start, libc::MADV_DONTNEED).is_err(),
        };
        if !copy || start == end {
            return Ok(());
        }
        self.copied += ((end - start) / PAGE) as u64;
        let both = libc::PROT_READ | libc::PROT_WRITE;
        if c.protection & both == both {
            let vector = libc::iovec {
                iov_base: start as *mut _,
                iov_len: end - start,
            };
            let v = &raw const vector;
            // SAFETY: the program's memory, put back as it was; nobody runs.
            let got = unsafe { call!(libc::SYS_process_vm_readv, self.child, v, 1, v, 1, 0) };
            if got == Ok(end - start) {
                return Ok(());
            }
        }
        let mut at = start;
        while at < end {
            let n = (end - at).min(self.room.our_bytes.len());
            read_at(&self.their_memory, &mut self.room.their_bytes[..n], at)?;
            let from = self.room.their_bytes.as_ptr();
            // SAFETY: the buffer has `n` octets; the target is the program's memory.
            let put = unsafe { call!(libc::SYS_pwrite64, self.our_memory.raw(), from, n, at) };
            if put != Ok(n) {
                return Err(Error::Refused {
                    what: "writing a page back",
                    errno: put.err().map_or(0, |e| e.0),
                });
            }
            at += n;
        }
        Ok(())
    }

    /// Compares every page that is populated on either side: how many, and how many differ.
    ///
    /// # Errors
    /// The pages could not be listed.
    pub fn verify(&mut self, skip: impl Fn(usize) -> bool) -> Result<(u64, u64), Error> {
        self.list_regions()?;
        let (ours, theirs) = (self.our_regions, self.their_regions);
        let (mut looked, mut wrong) = (0, 0);
        for i in 0..self.wanted {
            let c = self.room.theirs[i];
            let mut at = c.start;
            while !c.shared && at < c.end {
                let room = &mut *self.room;
                let Some((start, end)) =
                    next(&room.our_regions[..ours], &room.their_regions[..theirs], at)
                else {
                    break;
                };
                let (start, end) = (start.max(at), end.min(c.end));
                at = end;
                for page in (start..end).step_by(PAGE) {
                    let a = read_at(&self.our_memory, &mut room.our_bytes[..PAGE], page);
                    let b = read_at(&self.their_memory, &mut room.their_bytes[..PAGE], page);
                    // SAFETY: the list is the agent's.
                    let excluded = unsafe { self.state.excluded.get() }.at(page, page + PAGE).0;
                    if a.is_err() && b.is_err() || excluded || skip(page) {
                        continue;
                    }
                    looked += 1;
                    wrong += u64::from(
                        a.is_err()
                            || b.is_err()
                            || room.our_bytes[..PAGE] != room.their_bytes[..PAGE],
                    );
                }
            }
        }
        Ok((looked, wrong))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Keep,
    Copy,
    Drop,
}

fn bytes_of(entries: &mut [u64]) -> &mut [u8] {
    // SAFETY: any octets are entries.
    unsafe { core::slice::from_raw_parts_mut(entries.as_mut_ptr().cast(), size_of_val(entries)) }
}

fn advise(at: usize, length: usize, advice: i32) -> Result<(), Errno> {
    // SAFETY: the pre-image says what is there.
    unsafe { call!(libc::SYS_madvise, at, length, advice) }.map(drop)
}
