//! The rotated file: any order of writes, rotations, compressions and accidents keeps the newest
//! lines, in order, under the names that the manual promises.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use runner::config::model::Rotate;
use runner::logger::RotatingFile;
use runner::logger::rotate::numbered;

use super::records::scratch;

/// Each byte is a step.
pub fn rotation(bytes: &[u8]) {
    let Some((first, steps)) = bytes.split_first() else { return };
    let folder = scratch().join("rotation");
    fs::create_dir_all(&folder).unwrap();
    for entry in fs::read_dir(&folder).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let path = folder.join("log");
    let rotate = Rotate {
        max_size: (first & 1 == 1).then_some(u64::from(first >> 4) + 8),
        keep: u32::from(first >> 1 & 3),
        max_age: None,
        compress: first & 8 == 8,
    };
    let mut file = RotatingFile::open(&path, rotate).unwrap();
    let mut next = 0_u32;
    let mut meddled = false;
    for step in steps.iter().take(64) {
        match step % 8 {
            0..=3 => {
                let line = format!("{next}\n");
                next += 1;
                let cut = if step % 8 == 3 { line.len() / 2 } else { line.len() };
                let mut done = file.write_some(&line.as_bytes()[..cut]).unwrap();
                while done < line.len() {
                    done += file.write_some(&line.as_bytes()[done..]).unwrap();
                }
            }
            4 => file.rotate(),
            5 => drop(file.pack_some()),
            6 => file.reopen().unwrap(),
            _ => {
                // A crash left something under one of our names, or somebody removed it.
                meddled = true;
                let number = u32::from(step >> 4) % 5;
                let packed = step & 8 == 8;
                let victim =
                    if number == 0 { path.clone() } else { numbered(&path, number, packed) };
                if fs::remove_file(&victim).is_err() {
                    fs::write(&victim, "").unwrap();
                }
            }
        }
    }
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = |name: &str| {
        let rest = name.strip_prefix("log").unwrap_or("?");
        rest.is_empty()
            || rest == ".gz.tmp"
            || (1..10).any(|n| rest == format!(".{n}") || rest == format!(".{n}.gz"))
    };
    assert!(names.iter().all(|name| expected(name)), "{names:?}");
    if meddled {
        return;
    }
    let keep = rotate.keep.max(1);
    assert!(names.len() as u32 <= keep + 2, "{names:?} with keep {keep}");
    let lines = all_lines(&path);
    let newest: Vec<String> =
        (next - lines.len() as u32..next).map(|number| number.to_string()).collect();
    assert_eq!(lines, newest);
    assert_eq!(
        names.iter().any(|name| name.ends_with(".gz")),
        names.iter().any(|name| name.ends_with(".gz")) && rotate.compress
    );
}

/// All lines that can still be read, the oldest first.
fn all_lines(path: &Path) -> Vec<String> {
    let mut text = String::new();
    for number in (1..8).rev() {
        if let Ok(packed) = File::open(numbered(path, number, true)) {
            GzDecoder::new(packed).read_to_string(&mut text).unwrap();
        }
        text.push_str(&fs::read_to_string(numbered(path, number, false)).unwrap_or_default());
    }
    text.push_str(&fs::read_to_string(path).unwrap_or_default());
    text.lines().map(str::to_owned).collect()
}
