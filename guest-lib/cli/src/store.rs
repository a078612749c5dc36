// SPDX-License-Identifier: MIT OR Apache-2.0
//! `hvckpt verify`, `inspect`, `restore`, `compact`, `copy` and `keygen`.

use std::fs;
use std::io::{self, IsTerminal, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use hvckpt::explain;
use hvckpt::store::backend::{Backend, Directory};
use hvckpt::store::{
    CopyOptions, Examined, Progress, Store, StoreError, StoreKey, StoreKeyError, StoreOptions,
    copy_with, examine, verify,
};
use serde_json::{Value, json};

/// Environment variable which names the key file of an encrypted store.
const ENV_KEY: &str = "HVCKPT_STORE_KEY";
/// Something of the store is damaged.
const DAMAGED: u8 = 1;
/// It could not be done.
const FAILED: u8 = 2;

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Read a whole store and check every byte of it.
    ///
    /// Exit status: 0 if it is sound, 1 if something is damaged or missing,
    /// 2 if it could not be read.
    Verify(Common),
    /// Show versions, areas, images and hot pages of a store, or the newest
    /// image of a program. Of a running program (its name, or any pid): what a
    /// checkpoint could not keep.
    ///
    /// Exit status: as of verify; damage to pages is not looked for. Of a program
    /// 0 if all of it can be kept, else 1.
    Inspect(Common),
    /// Write the contents of an area to a file, or go back to a version.
    ///
    /// Exit status: 0 if done, 1 if something which is needed is damaged, 2
    /// otherwise. If it fails, a file which was there is as it was.
    Restore(Restore),
    /// Copy what is kept into one base image and remove the rest.
    ///
    /// Exit status: as of restore. The program which uses the store compacts
    /// by itself; this is for stores which nobody uses at the moment.
    Compact(Compact),
    /// Copy a store to a new directory, also while a program writes to it.
    ///
    /// The copy has everything that was acknowledged. Images to which nothing
    /// is appended any more are shared as hard links where both are on one
    /// file system.
    ///
    /// Exit status: as of restore. The new directory is complete or not there.
    Copy(Copy),
    /// Make a key for an encrypted store: a new file, mode 0600.
    ///
    /// Without the key an encrypted store is lost: keep a copy elsewhere.
    /// Prints the key's id, which names it in messages.
    Keygen {
        /// The file; it must not exist yet.
        file: PathBuf,
    },
}

#[derive(Args, Debug)]
pub struct Common {
    /// Directory of the store.
    dir: PathBuf,
    /// File with the key of an encrypted store [default: the file which the
    /// variable HVCKPT_STORE_KEY names, if it is set].
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Common {
    fn key(&self) -> Result<Option<StoreKey>, Failure> {
        let set = std::env::var_os(ENV_KEY).filter(|value| !value.is_empty());
        let path = self.key.clone().or(set.map(PathBuf::from));
        Ok(path.map(StoreKey::load).transpose()?)
    }
}

#[derive(Args, Debug)]
pub struct Restore {
    #[command(flatten)]
    common: Common,
    /// The version; the newest unless told (--in-place has to be told).
    #[arg(long)]
    version: Option<u64>,
    /// The area for --output; needed if there are several.
    #[arg(long)]
    area: Option<String>,
    /// File for the contents.
    #[arg(long, required_unless_present = "in_place")]
    output: Option<PathBuf>,
    /// Make the version the newest one of the store; newer ones stay as
    /// history.
    #[arg(long, conflicts_with_all = ["output", "area"], requires = "version")]
    in_place: bool,
    /// Accept that acknowledged versions are gone.
    #[arg(long)]
    accept_loss: bool,
}

#[derive(Args, Debug)]
pub struct Compact {
    #[command(flatten)]
    common: Common,
    /// Versions to keep.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    keep: u32,
}

#[derive(Args, Debug)]
pub struct Copy {
    #[command(flatten)]
    common: Common,
    /// The new directory; it must not exist yet.
    to: PathBuf,
    /// Make this version the newest one of the copy; newer ones stay as
    /// history.
    #[arg(long)]
    version: Option<u64>,
    /// Accept that acknowledged versions are gone: the copy begins at the newest
    /// which is whole.
    #[arg(long)]
    accept_loss: bool,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot write {0}")]
    Output(PathBuf, #[source] io::Error),
    #[error("cannot write {0}: it is no file; name a file, which may be new")]
    NoFile(PathBuf),
    #[error("there are several areas, choose one with --area: {0}")]
    Ambiguous(String),
    #[error(transparent)]
    Key(#[from] StoreKeyError),
    #[error("cannot print")]
    Print(#[source] io::Error),
}

/// Tells how far long work is, on standard error, once a second.
struct Meter {
    what: &'static str,
    next: Instant,
}

impl Meter {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            next: Instant::now() + Duration::from_secs(1),
        }
    }

    fn at(&mut self, text: impl FnOnce() -> String) {
        if Instant::now() >= self.next {
            self.next = Instant::now() + Duration::from_secs(1);
            let end = if io::stderr().is_terminal() {
                "\x1b[K\r"
            } else {
                "\n"
            };
            let _unheard = write!(io::stderr(), "{}: {}{end}", self.what, text());
        }
    }

    fn progress(&mut self, at: Progress) {
        self.at(|| {
            format!(
                "version {} of {}, {} pages",
                at.versions + 1,
                at.of,
                at.pages
            )
        });
    }
}

fn print(text: &str) -> Result<(), Failure> {
    crate::print(text).map_err(Failure::Print)
}

pub fn run(command: Command) -> ExitCode {
    let result = match command {
        Command::Verify(common) | Command::Inspect(common)
            if crate::process::holds(&common.dir) =>
        {
            return crate::process::show(&common.dir, common.json);
        }
        Command::Verify(common) => check(&common, true),
        Command::Inspect(common) => {
            let program = common.dir.to_str().filter(|_| !common.dir.exists());
            if let Some(done) = program.and_then(|of| crate::process::look(of, common.json)) {
                return done;
            }
            check(&common, false)
        }
        Command::Restore(restore) => restored(&restore),
        Command::Compact(compact) => compacted(&compact),
        Command::Copy(copy) => copied(&copy),
        Command::Keygen { file } => keygen(&file),
    };
    result.unwrap_or_else(|error| {
        crate::complain(&explain(&error));
        let damaged = matches!(error, Failure::Store(StoreError::Damaged(_)));
        ExitCode::from(if damaged { DAMAGED } else { FAILED })
    })
}

fn keygen(file: &Path) -> Result<ExitCode, Failure> {
    let key = StoreKey::generate()?;
    key.save(file)?;
    print(&key.id().to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn check(common: &Common, all: bool) -> Result<ExitCode, Failure> {
    let key = common.key()?;
    let backend: Arc<dyn Backend> = Arc::new(Directory::new(&common.dir));
    let mut meter = Meter::new(if all { "verify" } else { "inspect" });
    let progress = |at| meter.progress(at);
    let found = if all {
        verify(&backend, key.as_ref(), progress)
    } else {
        examine(&backend, key.as_ref(), progress)
    }?;
    let text = match (common.json, all) {
        (true, _) => format!("{:#}", as_json(&found)),
        (false, true) => verdict(&found),
        (false, false) => as_text(&found),
    };
    print(&text)?;
    Ok(if found.sound() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DAMAGED)
    })
}

fn as_json(found: &Examined) -> Value {
    json!({
        "store": found.id(),
        "sound": found.sound(),
        "bytes": found.bytes(),
        "acknowledged": found.acknowledged,
        "proven": found.proven,
        "torn_bytes": found.torn_bytes,
        "pages_read": found.pages,
        "whole": found.whole,
        "problems": found.problems.iter().map(|problem| json!({
            "file": problem.file,
            "offset": problem.offset,
            "what": problem.what.to_string(),
        })).collect::<Vec<_>>(),
        "areas": found.areas.iter().map(|area| json!({
            "name": area.name,
            "address": area.address,
            "pages": area.pages,
            "present": area.present,
        })).collect::<Vec<_>>(),
        "images": found.images.iter().map(|image| json!({
            "file": image.file,
            "base": image.base,
            "bytes": image.bytes,
            "valid": image.valid,
            "created_ns": image.created,
            "key": image.key.map(|key| key.to_string()),
        })).collect::<Vec<_>>(),
        "versions": found.versions.iter().map(|version| json!({
            "version": version.number,
            "previous": version.previous,
            "time_ns": version.time,
            "image": version.image,
            "offset": version.offset,
            "bytes": version.bytes,
            "pages": version.records,
        })).collect::<Vec<_>>(),
        "hot_pages": found.hot.iter().map(|(area, page, times)| json!({
            "area": area,
            "page": page,
            "versions": times,
        })).collect::<Vec<_>>(),
    })
}

fn problems(found: &Examined) -> impl Iterator<Item = String> {
    found
        .problems
        .iter()
        .map(|problem| format!("damage      {problem}"))
}

fn verdict(found: &Examined) -> String {
    let mut lines: Vec<String> = problems(found).collect();
    if found.torn_bytes > 0 {
        let torn = found.torn_bytes;
        lines.push(format!(
            "ignored     {torn} bytes which were never committed"
        ));
    }
    if !found.sound() {
        lines.push(way_out(found));
    }
    if let Some(version) = found.unproven() {
        lines.push(format!(
            "unproven    version {version} was not acknowledged, and may not be on the disk; opening \
              the store for writing makes it safe"
        ));
    }
    let word = if found.sound() { "sound" } else { "DAMAGED" };
    let newest = found.versions.last().map_or(0, |version| version.number);
    let (images, pages) = (found.images.len(), found.pages);
    lines.push(format!(
        "{word}: version {newest}, {images} images, {pages} page records read"
    ));
    lines.join("\n")
}

/// Which versions are whole, and how to get at them.
fn way_out(found: &Examined) -> String {
    let Some(newest) = found.whole.last() else {
        return "whole       none".to_owned();
    };
    // Numbers which follow each other in what is kept.
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut before = false;
    for version in found.versions.iter().map(|version| version.number) {
        let whole = found.whole.contains(&version);
        match runs.last_mut() {
            Some((_, last)) if whole && before => *last = version,
            _ if whole => runs.push((version, version)),
            _ => {}
        }
        before = whole;
    }
    let run = |(first, last): &(u64, u64)| match first == last {
        true => first.to_string(),
        false => format!("{first} to {last}"),
    };
    let runs: Vec<String> = runs.iter().map(run).collect();
    format!(
        "whole       versions {}: hvckpt restore --version {newest} --accept-loss, with --output \
         FILE or --in-place",
        runs.join(", ")
    )
}

/// Time of day in UTC.
fn time(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of year 0, in eras of 400 years.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) = (
        of_year - (153 * shifted + 2) / 5 + 1,
        (shifted + 2) % 12 + 1,
    );
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

fn as_text(found: &Examined) -> String {
    let mut lines = vec![
        format!("store       {}", found.id()),
        format!(
            "size        {} bytes in {} images",
            found.bytes(),
            found.images.len()
        ),
    ];
    if let Some(key) = found.images.last().and_then(|image| image.key) {
        lines.push(format!("encrypted   with key {key}"));
    }
    lines.extend(problems(found));
    lines.push(format!(
        "\n{:<24} {:>16} {:>12} {:>12}",
        "AREA", "ADDRESS", "PAGES", "NOT ZERO"
    ));
    for area in &found.areas {
        let (name, address) = (&area.name, area.address);
        lines.push(format!(
            "{name:<24} {address:>#16x} {:>12} {:>12}",
            area.pages, area.present
        ));
    }
    lines.push(format!(
        "\n{:<24} {:<10} {:>14} {:<19}",
        "IMAGE", "KIND", "BYTES", "MADE (UTC)"
    ));
    for image in &found.images {
        let kind = if image.base { "base" } else { "increment" };
        let made = time(image.created);
        lines.push(format!(
            "{:<24} {kind:<10} {:>14} {made}",
            image.file, image.bytes
        ));
    }
    lines.push(format!(
        "\n{:>12} {:<19} {:>8} {:>14}  {}",
        "VERSION", "COMMITTED (UTC)", "PAGES", "BYTES", "IMAGE"
    ));
    for version in &found.versions {
        lines.push(format!(
            "{:>12} {} {:>8} {:>14}  {:06x}",
            version.number,
            time(version.time),
            version.records,
            version.bytes,
            version.image
        ));
    }
    if !found.hot.is_empty() {
        lines.push(format!(
            "\n{:<24} {:>12} {:>16}",
            "HOT PAGE OF", "PAGE", "VERSIONS"
        ));
    }
    for (area, page, times) in &found.hot {
        lines.push(format!("{area:<24} {page:>12} {times:>16}"));
    }
    lines.join("\n")
}

fn options(common: &Common) -> Result<StoreOptions, Failure> {
    let mut options = StoreOptions::default();
    options.create = false;
    options.auto_compact = false;
    options.key = common.key()?;
    Ok(options)
}

fn restored(restore: &Restore) -> Result<ExitCode, Failure> {
    let mut options = options(&restore.common)?;
    options.accept_loss = restore.accept_loss;
    let report = if let Some(output) = &restore.output {
        options.read_only = true;
        let store = Store::open(&restore.common.dir, options)?;
        let view = store.view(restore.version)?;
        let areas = view.areas();
        let area = match (&restore.area, areas.len()) {
            (Some(name), _) => view.area(name)?,
            (None, 0 | 1) => 0,
            (None, _) => {
                let names: Vec<_> = areas.iter().map(|area| area.name.as_str()).collect();
                return Err(Failure::Ambiguous(names.join(", ")));
            }
        };
        let pages = areas.get(area).map_or(0, |area| area.pages);
        let present = view.present(area)?;
        let mut meter = Meter::new("restore");
        write(output, pages, |file| {
            for (done, page) in present.iter().enumerate() {
                let bytes = view.page(area, *page)?.to_bytes();
                file.seek(SeekFrom::Start(page * bytes.len() as u64))
                    .and_then(|_| file.write_all(&bytes))
                    .map_err(|error| Failure::Output(output.clone(), error))?;
                meter.at(|| format!("page {done} of {}", present.len()));
            }
            Ok(())
        })?;
        json!({ "version": view.version().number, "pages": pages, "written": present.len() })
    } else {
        options.at = restore.version;
        let store = Store::open(&restore.common.dir, options)?;
        json!({ "version": store.newest(), "contents_of": restore.version })
    };
    report_of(&restore.common, &report)
}

/// Writes a file under another name first, so that it is complete or absent.
/// What is there and no file, such as a device, is not replaced by one.
fn write(
    output: &Path,
    pages: u64,
    fill: impl FnOnce(&mut fs::File) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |error| Failure::Output(output.to_owned(), error);
    let target = match fs::metadata(output) {
        Ok(there) if there.is_file() => fs::canonicalize(output).map_err(failed)?,
        Ok(_) => return Err(Failure::NoFile(output.to_owned())),
        Err(_) => output.to_owned(),
    };
    let mut name = target.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(name);
    // For its owner only, as the store is.
    let result = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed)?;
    let result = Ok(result).and_then(|mut file| {
        file.set_len(pages.saturating_mul(hvckpt::PAGE_SIZE as u64))
            .map_err(failed)?;
        fill(&mut file)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&temporary, &target).map_err(failed)?;
        let parent = target.parent().unwrap_or(Path::new(""));
        hvckpt_files::sync_directory(parent).map_err(failed)
    });
    if result.is_err() {
        let _leftover = fs::remove_file(&temporary);
    }
    result
}

fn compacted(compact: &Compact) -> Result<ExitCode, Failure> {
    let mut options = options(&compact.common)?;
    options.keep = compact.keep as usize;
    let store = Store::open(&compact.common.dir, options)?;
    let mut meter = Meter::new("compact");
    let done = store.compact(|at| meter.progress(at))?;
    let report = json!({
        "versions": done.map_or(0, |done| done.versions),
        "bytes_before": done.map_or(0, |done| done.before),
        "bytes_after": done.map_or(0, |done| done.after),
    });
    report_of(&compact.common, &report)
}

fn copied(copied: &Copy) -> Result<ExitCode, Failure> {
    let common = &copied.common;
    let mut options = CopyOptions::default();
    options.key = common.key()?;
    options.version = copied.version;
    options.accept_loss = copied.accept_loss;
    let done = copy_with(&common.dir, &copied.to, &options)?;
    let report = json!({
        "version": done.version,
        "images": done.images,
        "linked": done.linked,
        "bytes_copied": done.bytes,
    });
    report_of(common, &report)
}

fn report_of(common: &Common, report: &Value) -> Result<ExitCode, Failure> {
    let text = match report {
        Value::Object(fields) if !common.json => {
            let field =
                |(name, value): (&String, &Value)| format!("{:<14}{value}", name.replace('_', " "));
            fields.iter().map(field).collect::<Vec<_>>().join("\n")
        }
        _ => format!("{report:#}"),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
