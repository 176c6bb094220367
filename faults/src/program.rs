//! The program under test, and how it is built.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::process::Command;

use crate::broken::breakable;
use crate::say;

const NAME: &str = "natterjack";

/// The program that was named, else the one beside this one, built if it is missing.
pub(crate) async fn find(named: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        if !named.is_file() {
            bail!("{} is no file: name the program under test with --bin", named.display());
        }
        return Ok(std::path::absolute(named)?);
    }
    let program = beside()?;
    if !program.is_file() {
        build(&program, &[]).await?;
    }
    Ok(program)
}

/// The same program with safeguards that can be broken. It is built each time, so that it is of the present source; the
/// real one is put back in its place.
pub(crate) async fn find_breakable() -> anyhow::Result<PathBuf> {
    let program = beside()?;
    let place = breakable(&program);
    build(&program, &["--features", "faults"]).await?;
    std::fs::copy(&program, &place).with_context(|| format!("cannot write {}", place.display()))?;
    build(&program, &[]).await?;
    Ok(place)
}

/// `target/PROFILE/natterjack`. A test's own program is one folder deeper.
fn beside() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    let folder = folder.context("this program is in no folder: name the program under test with --bin")?;
    Ok(folder.join(NAME))
}

async fn build(program: &Path, more: &[&str]) -> anyhow::Result<()> {
    let profile = program
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    let profile = match profile {
        Some("debug") => "dev",
        Some(other) => other,
        None => "release",
    };
    say(&format!(
        "building {NAME} ({profile}{}{})",
        if more.is_empty() { "" } else { " " },
        more.join(" ")
    ));
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = program
        .parent()
        .and_then(Path::parent)
        .context("there is no target folder")?;
    let status = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--bin",
            NAME,
            "--profile",
            profile,
            "--manifest-path",
            manifest,
        ])
        .arg("--target-dir")
        .arg(target)
        .args(more)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .context("cargo does not run: build natterjack yourself and name it with --bin")?;
    if !status.success() {
        bail!("natterjack was not built");
    }
    Ok(())
}
