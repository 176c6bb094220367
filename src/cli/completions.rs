use clap::CommandFactory;

#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// Which shell
    shell: clap_complete::Shell,
}

pub(crate) fn run(completions: &Completions) {
    let mut command = super::Arguments::command();
    clap_complete::generate(completions.shell, &mut command, "natterjack", &mut std::io::stdout());
}
