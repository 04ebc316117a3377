//! Which controller is asked: several clusters have several controllers, and nobody types addresses at night.
//!
//! A file names them, as kubectl's does. What was said more directly wins: `--controller`, `--context`, the environment
//! (`C4_CONTROLLER`, `C4_CONTEXT`), the file's current context, this machine.

use std::{collections::BTreeMap, io::ErrorKind, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    cli::{Cli, Credentials, DEFAULT_CONTROLLER, Who},
    failure::{Exit, Failure},
    output::{Output, Style},
    table::{Align, Cell, Table},
};

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Contexts {
    /// The context that counts where none is named.
    pub current: Option<String>,
    /// Contexts by name.
    pub contexts: BTreeMap<String, Context>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Address of its controller.
    pub controller: String,
    /// What protects the connection to it, as the options of the same names say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// See `ca`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// See `ca`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// See `ca`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// See `ca`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// Whom to ask, and with what.
#[derive(Clone, Debug)]
pub struct Target {
    /// Address of the controller.
    pub controller: String,
    /// What protects the connection to it.
    pub credentials: Credentials,
}

/// Where the file is: `C4_CONFIG`, or `c4/ctl.yaml` in the user's folder for configuration.
#[must_use]
pub fn path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || Some(set("HOME")?.join(".config"));
    set("C4_CONFIG").or_else(|| Some(set("XDG_CONFIG_HOME").or_else(home)?.join("c4/ctl.yaml")))
}

impl Contexts {
    /// Reads the file; none is an empty one.
    ///
    /// # Errors
    /// When it cannot be read, or is not what it should be.
    pub fn read() -> Result<Self, Failure> {
        let Some(path) = path() else { return Ok(Self::default()) };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::Configuration(format!("{}: {error}", path.display()))),
        };
        Self::parse(&text).map_err(|error| Failure::Configuration(format!("{}: {error}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_yaml::from_str(text).map_err(|error| error.to_string())
    }

    /// Writes the file anew; a reader sees the old one or the new one.
    fn write(&self) -> Result<(), Failure> {
        let path = path()
            .ok_or_else(|| Failure::Configuration("neither C4_CONFIG nor HOME says where to write".into()))?;
        let failed = |problem: &dyn std::fmt::Display| {
            Failure::Configuration(format!("{}: {problem}", path.display()))
        };
        let text = serde_yaml::to_string(self).map_err(|error| failed(&error))?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
        }
        let new = path.with_extension("new");
        std::fs::write(&new, text).map_err(|error| failed(&error))?;
        std::fs::rename(&new, &path).map_err(|error| failed(&error))
    }

    fn get(&self, context: &str) -> Result<&Context, Failure> {
        match self.contexts.get(context) {
            Some(context) => Ok(context),
            None if self.contexts.is_empty() => Err(Failure::Configuration(format!(
                "there is no context {context:?}, nor any other; `c4ctl context set {context} http://CONTROLLER:4400` makes it"
            ))),
            None => {
                let names: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
                Err(Failure::Configuration(format!(
                    "there is no context {context:?}; there are {}",
                    names.join(", ")
                )))
            }
        }
    }
}

/// The controller to ask. Credentials of its context apply where none were given more directly.
///
/// # Errors
/// When a context is named that there is not, or the file is wrong.
pub fn target(cli: &Cli) -> Result<Target, Failure> {
    let mut credentials = cli.credentials.clone();
    // An empty address is as wrong as any other, and is said to be.
    let from_environment = |name: &str| std::env::var(name).ok();
    let typed = |context: &Option<String>| context.is_none().then(|| from_environment("C4_CONTROLLER"));
    if let Some(controller) = cli.controller.clone().or_else(|| typed(&cli.context).flatten()) {
        return Ok(Target { controller, credentials });
    }
    let contexts = Contexts::read()?;
    let named = || from_environment("C4_CONTEXT").filter(|name| !name.is_empty());
    match cli.context.clone().or_else(named).or_else(|| contexts.current.clone()) {
        Some(context) => {
            let Context { controller, ca, cert, key, token_file, server_name } =
                contexts.get(&context)?.clone();
            credentials.ca = credentials.ca.or(ca);
            credentials.server_name = credentials.server_name.or(server_name);
            // A certificate and its key belong together, and whoever shows one does not mean the other's token.
            if credentials.cert.is_none() && credentials.key.is_none() && credentials.token_file.is_none() {
                (credentials.cert, credentials.key, credentials.token_file) = (cert, key, token_file);
            }
            Ok(Target { controller, credentials })
        }
        None => Ok(Target { controller: DEFAULT_CONTROLLER.to_owned(), credentials }),
    }
}

/// `c4ctl context …`.
///
/// # Errors
/// When there is no such context, or the file cannot be read or written.
pub fn run(
    command: &Who,
    credentials: &Credentials,
    is_json: bool,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let mut contexts = Contexts::read()?;
    let said = match command {
        Who::List => {
            list(&contexts, is_json, out)?;
            return Ok(Exit::Fine);
        }
        Who::Use { name } => {
            contexts.get(name)?;
            contexts.current = Some(name.clone());
            format!("current context: {name}")
        }
        Who::Set { name, controller } => {
            let Credentials { ca, cert, key, token_file, server_name } = credentials.clone();
            let context = Context { controller: controller.clone(), ca, cert, key, token_file, server_name };
            contexts.contexts.insert(name.clone(), context);
            contexts.current.get_or_insert_with(|| name.clone());
            format!("context {name}: {controller}")
        }
        Who::Delete { name } => {
            contexts.get(name)?;
            contexts.contexts.remove(name);
            contexts.current = contexts.current.filter(|current| current != name);
            format!("context {name} is deleted")
        }
    };
    contexts.write()?;
    if is_json {
        out.json(&contexts)?
    } else {
        out.line(said)?
    }
    out.flush()?;
    Ok(Exit::Fine)
}

fn list(contexts: &Contexts, is_json: bool, out: &mut Output) -> Result<(), Failure> {
    if is_json {
        out.json(&json!({"current": contexts.current, "contexts": contexts.contexts}))?;
        return Ok(());
    }
    if contexts.contexts.is_empty() {
        out.line("No contexts; `c4ctl context set NAME http://CONTROLLER:4400` makes one.")?;
    } else {
        let mut table =
            Table::new(&[("CURRENT", Align::Left), ("NAME", Align::Left), ("CONTROLLER", Align::Left)]);
        for (name, context) in &contexts.contexts {
            let current = contexts.current.as_ref() == Some(name);
            let mark = if current { Cell::styled("*", Style::Good) } else { "".into() };
            table.row(vec![mark, name.into(), (&context.controller).into()]);
        }
        table.print(out)?;
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_strictly() {
        let text = "current: prod\ncontexts:\n  prod: {controller: 'http://p:4400'}\n";
        let contexts = Contexts::parse(text).expect("right");
        assert_eq!(contexts.get("prod").expect("there").controller, "http://p:4400");
        let error = contexts.get("dev").expect_err("not there");
        assert_eq!(
            (error.code(), error.to_string()),
            (64, "there is no context \"dev\"; there are prod".into())
        );
        assert_eq!(Contexts::parse(" \n"), Ok(Contexts::default()));
        assert!(Contexts::parse("contexts: {prod: {controler: x}}").is_err(), "unknown keys are mistakes");
    }
}
