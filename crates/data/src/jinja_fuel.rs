//! Fuel for the contents of values.
//!
//! minijinja's fuel limits the number of instructions and most of the data that a template makes. It does not see the
//! parts of a container: a list that holds another one twice, forty levels deep, costs almost nothing to make and fills
//! the memory as soon as it is printed, compared or hashed. After compilation, every instruction that looks into its
//! operands is therefore replaced by a filter of the same arity, which first charges for their whole contents.

use crate::jinja_failure::Failure;
use crate::python;
use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value};
use std::collections::{BTreeSet, HashSet};

/// Deepest container in a container.
const DEEPEST_VALUE: usize = 100;
/// Pairs of a name and the name of the filter that stands for it, which no template can write because of its colon.
macro_rules! wrapped {
    ($prefix:literal: $($name:literal)*) => { &[$(($name, concat!($prefix, $name))),*] };
}

/// Filters that look into the parts of what they are given.
const FILTERS: &[(&str, &str)] = wrapped!("filter:":
    "attr" "batch" "before_last_word" "bool" "capitalize" "chain" "dictsort" "e" "escape" "float" "format" "groupby" "indent"
    "int" "items" "join" "last" "last_word" "lines" "list" "lower" "map" "max" "min" "position" "pprint" "reject" "rejectattr"
    "replace" "reverse" "round" "safe" "select" "selectattr" "slice" "sort" "split" "string" "sum" "title" "tojson" "trim"
    "truncate" "unique" "upper" "urlencode" "wordcount" "zip");
/// Tests that compare what they are given.
const TESTS: &[(&str, &str)] = wrapped!("test:":
    "==" "!=" "<" "<=" ">" ">=" "divisibleby" "endingwith" "eq" "equalto" "ge" "greaterthan" "gt" "in" "le" "lessthan" "lower"
    "lt" "ne" "startingwith" "upper");
/// Methods of text, lists, maps and loops.
const METHODS: &[(&str, &str)] = wrapped!("method:":
    "capitalize" "casefold" "center" "changed" "copy" "count" "cycle" "endswith" "expandtabs" "find" "format" "get" "index"
    "isalnum" "isalpha" "isascii" "isdecimal" "isdigit" "isidentifier" "islower" "isnumeric" "isprintable" "isspace"
    "istitle" "isupper" "items" "join" "keys" "ljust" "lower" "lstrip" "partition" "removeprefix" "removesuffix" "replace"
    "rfind" "rindex" "rjust" "rpartition" "rsplit" "rstrip" "split" "splitlines" "startswith" "strip" "swapcase" "title"
    "upper" "values" "zfill");
/// Methods that do not look into what they are called on.
const SHALLOW_METHODS: [&str; 5] = ["changed", "cycle", "get", "keys", "values"];
/// Operators: the name of the filter that stands for each, and the expression that it evaluates where it has no faster way.
const OPERATORS: [(&str, &str); 6] = [
    ("op:+", "a + b"),
    ("op:*", "a * b"),
    ("op:%", "a % b"),
    ("op:in", "a in b"),
    ("op:slice", "a[b:c:d]"),
    ("op:item", "a[b]"),
];
/// Whether two values compare as an operator says.
type CompareFn = fn(&Value, &Value) -> bool;
/// Comparisons, as filters.
const COMPARISONS: [(&str, CompareFn); 6] = [
    ("op:==", |a, b| a == b),
    ("op:!=", |a, b| a != b),
    ("op:<", |a, b| a < b),
    ("op:<=", |a, b| a <= b),
    ("op:>", |a, b| a > b),
    ("op:>=", |a, b| a >= b),
];

/// Names of variables.
#[derive(Debug, Default)]
pub(crate) struct VariableNames {
    pub(crate) read: HashSet<String>,
    pub(crate) set: HashSet<String>,
    /// Attributes of namespaces that are set.
    pub(crate) attributes: BTreeSet<String>,
}

/// Replaces the instructions that look into the parts of their operands by filters, each of which takes and leaves as many
/// values, so that places and jumps stay as they are; and collects the names of variables.
pub(crate) fn guard(instructions: &mut Instructions, names: &mut VariableNames) -> Result<(), Failure> {
    const UNCACHED: u8 = u8::MAX;
    let find = |table: &[(&str, &'static str)], name: &str| {
        table.iter().find(|(own, _)| *own == name).map(|(_, wrapped)| *wrapped)
    };
    let mut index = 0;
    while let Some(instruction) = instructions.get_mut(index) {
        let replaced = match instruction {
            Instruction::Lookup(name) => {
                names.read.insert((*name).to_owned());
                None
            }
            Instruction::StoreLocal(name) => {
                names.set.insert((*name).to_owned());
                None
            }
            Instruction::SetAttr(name) => {
                names.attributes.insert((*name).to_owned());
                None
            }
            Instruction::ApplyFilter(name, n, _) => find(FILTERS, name).map(|name| (name, *n)),
            Instruction::PerformTest(name, n, _) => find(TESTS, name).map(|name| (name, *n)),
            Instruction::CallMethod(name, n) => find(METHODS, name).map(|name| (name, *n)),
            Instruction::StringConcat => Some(("op:~", Some(2))),
            Instruction::Add => Some(("op:+", Some(2))),
            Instruction::Mul => Some(("op:*", Some(2))),
            Instruction::Rem => Some(("op:%", Some(2))),
            Instruction::In => Some(("op:in", Some(2))),
            Instruction::GetItem => Some(("op:item", Some(2))),
            Instruction::Slice => Some(("op:slice", Some(4))),
            Instruction::Eq => Some(("op:==", Some(2))),
            Instruction::Ne => Some(("op:!=", Some(2))),
            Instruction::Lt => Some(("op:<", Some(2))),
            Instruction::Lte => Some(("op:<=", Some(2))),
            Instruction::Gt => Some(("op:>", Some(2))),
            Instruction::Gte => Some(("op:>=", Some(2))),
            Instruction::BuildMap(n) => u16::try_from(2 * *n).ok().map(|n| ("op:map", Some(n))),
            Instruction::CompareAndPreserve(_) => {
                let what = "chained comparisons (a < b < c) are not supported; write a < b and b < c";
                return Err(Failure::new(what, instructions.get_line(index)));
            }
            _ => None,
        };
        if let Some((name, n)) = replaced {
            *instruction = Instruction::ApplyFilter(name, n, UNCACHED);
        }
        index += 1;
    }
    Ok(())
}

/// Adds the filters that [`guard`] puts in.
pub(crate) fn add_guards(environment: &mut Environment<'static>) {
    for &(name, wrapped) in FILTERS {
        environment.add_filter(wrapped, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            charge_call(state, name, &args)?;
            let result = state.apply_filter(name, &args);
            settled(state, result.map_err(|e| named(e, ErrorKind::UnknownFilter, "filter", name))?)
        });
    }
    for &(name, wrapped) in TESTS {
        environment.add_filter(wrapped, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            charge(state, args.iter())?;
            state.perform_test(name, &args)
        });
    }
    for &(name, wrapped) in METHODS {
        environment.add_filter(wrapped, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            let (on, rest) = args.split_first().ok_or(ErrorKind::MissingArgument)?;
            let shallow = SHALLOW_METHODS.contains(&name) && on.as_str().is_none();
            charge_call(state, name, if shallow { rest } else { &args })?;
            let result = on.call_method(state, name, rest)?;
            settled(state, result)
        });
    }
    for (name, compare) in COMPARISONS {
        environment.add_filter(name, move |state: &State, a: &Value, b: &Value| {
            charge(state, [a, b])?;
            defined(state, [a, b])?;
            Ok::<_, Error>(compare(a, b))
        });
    }
    environment.add_filter("op:~", |state: &State, a: &Value, b: &Value| {
        charge(state, [a, b])?;
        defined(state, [a, b])?;
        let text = python::text(a) + &python::text(b);
        Ok::<_, Error>(if a.is_safe() && b.is_safe() { Value::from_safe_string(text) } else { Value::from(text) })
    });
    environment.add_filter("op:map", |state: &State, pairs: Rest<Value>| {
        charge(state, pairs.iter())?;
        let pairs = pairs.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        Ok::<_, Error>(Value::from_pairs(pairs))
    });
    for (name, expression) in OPERATORS {
        environment
            .add_filter(name, move |state: &mut State, args: Rest<Value>| operate(state, name, expression, &args));
    }
}

/// The operator `name` on `args`.
fn operate(state: &mut State, name: &str, expression: &'static str, args: &[Value]) -> Result<Value, Error> {
    let number = |i: usize| args.get(i).filter(|value| value.kind() == ValueKind::Number).and_then(Value::as_i64);
    match name {
        "op:+" | "op:*" => {
            if let (Some(a), Some(b)) = (number(0), number(1)) {
                let result = if name == "op:+" { a.checked_add(b) } else { a.checked_mul(b) };
                if let Some(result) = result {
                    return Ok(Value::from(result));
                }
            }
            let size = charge(state, args)?;
            if let (Some(n), "op:*") = (number(0).or(number(1)), name) {
                state.consume_fuel(size.units().saturating_mul(u64::try_from(n).unwrap_or(0)) / UNITS)?;
            }
        }
        "op:%" => {
            let size = charge(state, args)?;
            if let [format, values] = args
                && let Some(format) = format.as_str()
            {
                let fields = format.matches('%').count() as u64;
                state.consume_fuel(fields.saturating_mul(size.units() + python::WIDEST as u64) / UNITS)?;
                return python::percent(format, values).map(Value::from);
            }
        }
        "op:item" => {
            // Text and lazy lists are walked up to the index, and a key is hashed as a whole.
            let [of, key] = args else { return Err(ErrorKind::MissingArgument.into()) };
            if matches!(of.kind(), ValueKind::String | ValueKind::Iterable) {
                charge(state, [of])?;
            }
            charge(state, [key])?;
            if !of.is_undefined() {
                return of.get_item(key);
            }
        }
        _ => {
            charge(state, args)?;
        }
    }
    let mut names = ["a", "b", "c", "d"].into_iter().zip(args.iter().cloned());
    let variables = Value::from_pairs(&mut names);
    let result = state.env().compile_expression(expression)?.eval(variables)?;
    settled(state, result)
}

/// Which of `values` must not be undefined.
fn defined<'a>(state: &State, values: impl IntoIterator<Item = &'a Value>) -> Result<(), Error> {
    let lenient = matches!(state.env().undefined_behavior(), UndefinedBehavior::Lenient | UndefinedBehavior::Chainable);
    match !lenient && values.into_iter().any(Value::is_undefined) {
        true => Err(ErrorKind::UndefinedError.into()),
        false => Ok(()),
    }
}

fn named(error: Error, kind: ErrorKind, what: &str, name: &str) -> Error {
    if error.kind() == kind && error.detail().is_none() {
        return Error::new(kind, format!("{what} {name} is unknown"));
    }
    error
}

/// The same with a list in the place of a lazy one: lazy ones that hold lazy ones take longer with each.
fn settled(state: &State, value: Value) -> Result<Value, Error> {
    if value.kind() != ValueKind::Iterable {
        return Ok(value);
    }
    let mut items = Vec::new();
    for item in value.try_iter()?.checked() {
        state.consume_fuel(1)?;
        items.push(item?);
    }
    Ok(Value::from(items))
}

/// What one fuel pays for, in bytes.
const UNITS: u64 = 64;

/// How large a value is with all that it holds, each part as often as it is held.
#[derive(Debug, Default)]
pub(crate) struct ValueTotal {
    nodes: u64,
    bytes: u64,
    /// Not yet paid for.
    owed: u64,
}

impl ValueTotal {
    fn units(&self) -> u64 {
        (self.nodes * NODE).saturating_add(self.bytes)
    }

    fn pay(&mut self, state: &State) -> Result<(), Error> {
        let fuel = self.owed / UNITS;
        self.owed %= UNITS;
        state.consume_fuel(fuel)
    }
}

/// The cost of a part besides its bytes.
const NODE: u64 = 32;

/// Charges for all that `values` hold.
pub(crate) fn charge<'a>(state: &State, values: impl IntoIterator<Item = &'a Value>) -> Result<ValueTotal, Error> {
    let mut size = ValueTotal::default();
    for value in values {
        walk(state, value, 0, &mut size)?;
    }
    size.pay(state)?;
    Ok(size)
}

fn walk(state: &State, value: &Value, depth: usize, size: &mut ValueTotal) -> Result<(), Error> {
    if depth > DEEPEST_VALUE {
        let what = format!("a list or map is nested more than {DEEPEST_VALUE} levels deep");
        return Err(Error::new(ErrorKind::InvalidOperation, what));
    }
    let bytes = value.as_str().map_or_else(|| value.as_bytes().map_or(0, <[u8]>::len), str::len) as u64;
    size.nodes += 1;
    size.bytes += bytes;
    size.owed += bytes + NODE;
    if size.owed > 64 * UNITS {
        size.pay(state)?;
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()?.checked() {
                walk(state, &item?, depth + 1, size)?;
            }
        }
        ValueKind::Map => {
            for (key, value) in value.as_object().and_then(|map| map.try_iter_pairs()).into_iter().flatten() {
                walk(state, &key, depth + 1, size)?;
                walk(state, &value, depth + 1, size)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Charges for what the filter or method `name` does with `args`.
fn charge_call(state: &State, name: &str, args: &[Value]) -> Result<(), Error> {
    let size = charge(state, args)?;
    let text = |i: usize| args.get(i).and_then(Value::as_str);
    let units = match name {
        // Widths may be anything, and a part may be named again and again.
        "format" => {
            let format = text(0).unwrap_or_default();
            let fields = format.bytes().filter(|byte| matches!(byte, b'{' | b'%')).count() as u64;
            let widths = format.split(|c: char| !c.is_ascii_digit()).map(|digits| match digits {
                "" => 0,
                digits => digits.parse::<u64>().unwrap_or(u64::MAX),
            });
            let widths = widths.chain([largest(args)]).fold(0, u64::saturating_add);
            fields.saturating_mul(size.units()).saturating_add(widths)
        }
        // Each part stands on a line of its own, behind as many spaces as it is deep times the indent.
        "tojson" | "indent" => {
            size.nodes.saturating_add(size.bytes / 2).saturating_mul(largest(args)).saturating_mul(4)
        }
        "pprint" => size.nodes * 4 * DEEPEST_VALUE as u64,
        // A tab may be as wide as text may be.
        "expandtabs" => size.units().saturating_mul(largest(args)),
        // A list of as many parts.
        "split" | "rsplit" | "lines" | "splitlines" => {
            let whole = text(0).unwrap_or_default();
            NODE * match text(1) {
                Some(between) => whole.matches(between).count() as u64,
                None => whole.split_whitespace().count().max(whole.lines().count()) as u64,
            }
        }
        // A filler as often as it is wanted.
        "batch" | "slice" => size.units().saturating_mul(u64::from(args.len() > 2)).saturating_mul(largest(args)),
        // Comparing is done more than once.
        "sort" | "unique" | "groupby" | "dictsort" => size.units().saturating_mul(8),
        _ => 0,
    };
    state.consume_fuel(units / UNITS)
}

/// The largest whole number among `args`, those with names included.
fn largest(args: &[Value]) -> u64 {
    let whole = |value: &Value| u64::try_from(value.clone()).ok();
    let with_names = args.iter().filter(|value| value.is_kwargs()).flat_map(|named| {
        named.as_object().and_then(|map| map.try_iter_pairs()).into_iter().flatten().map(|(_, value)| value)
    });
    args.iter().cloned().chain(with_names).filter_map(|value| whole(&value)).max().unwrap_or(0)
}
