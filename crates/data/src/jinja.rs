//! The Jinja engine for templates that nobody vouches for: chat templates of downloaded models, and task files.
//!
//! Its fuel limits the work of a template; [`crate::jinja_fuel`] has values charged with all that they hold.

use crate::jinja_fuel::{VariableNames, add_guards, charge, guard};
use crate::quiet::quietly;
use crate::{python, python_methods};
use minijinja::machinery::{
    CodeGenerator, CompiledTemplate, Instructions, TemplateConfig, Token, eval, make_string_output, parse_expr,
    tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value};
use self_cell::self_cell;
use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

pub use crate::jinja_failure::Failure;

/// Longest template, in bytes. The longest published chat templates have 60,000.
pub const LONGEST_SOURCE: usize = 1 << 20;
/// Most tokens between `{{` and `}}` or `{%` and `%}`: each may be one more level for the recursive parser. Published
/// templates have up to 3,000, in a table of languages.
const LONGEST_TAG: usize = 20_000;
/// Most `elif` branches: each is one more level for the recursive parser.
const MOST_BRANCHES: usize = 1000;
/// Stack for parsing and rendering, in bytes of address space: usual templates touch little of it.
const DEEP_STACK: usize = 256 << 20;
/// Fuel of a template for small input: a million instructions, or 64 MB of text.
const BASE_FUEL: u64 = 1_000_000;

/// What templates may read and do beyond the standard filters.
pub fn environment(undefined: UndefinedBehavior) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(undefined);
    environment.remove_global("debug"); // it prints everything that the engine holds
    add_guards(&mut environment);
    environment.set_unknown_method_callback(python_methods::call);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_function("cycler", minijinja_contrib::globals::cycler);
    environment.add_filter("wordcount", minijinja_contrib::filters::wordcount);
    environment.add_filter("truncate", python::truncate);
    environment.add_filter("center", |state: &mut State, text: String, width: Option<usize>| {
        python_methods::call(state, &Value::from(text), "center", &[Value::from(width.unwrap_or(80))])
    });
    environment.add_function("raise_exception", |state: &State, message: Value| -> Result<String, Error> {
        charge(state, [&message])?;
        Err(Error::new(ErrorKind::InvalidOperation, message.to_string()))
    });
    environment.set_formatter(|out, state, value| {
        charge(state, [value])?;
        match value.kind() {
            ValueKind::Number => out.write_str(&python::text(value)).map_err(|_| ErrorKind::WriteFailure.into()),
            _ => minijinja::escape_formatter(out, state, value),
        }
    });
    environment
}

/// Fuel for a template that reads `bytes` of text in `items` parts.
pub fn fuel_for(bytes: usize, items: usize) -> u64 {
    BASE_FUEL + bytes as u64 / 4 + 10_000 * items as u64
}

/// A compiled template, or a compiled expression.
#[derive(Debug)]
pub struct Program {
    code: Code,
    environment: Environment<'static>,
    /// Names of the variables that it reads and does not set.
    variables: HashSet<String>,
    /// Template that clears the attributes which the program sets, in each namespace of `all`.
    clear: String,
}

self_cell!(
    struct Code {
        owner: String,
        #[covariant]
        dependent: Compiled,
    }
);

struct Compiled<'a> {
    main: Instructions<'a>,
    blocks: BTreeMap<&'a str, Instructions<'a>>,
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Code({} bytes)", self.borrow_owner().len())
    }
}

impl Program {
    /// Compiles the template `source`, which [`Program::render`] runs in `environment`.
    ///
    /// # Errors
    /// When it is no Jinja, or so long or so deep that the parser would run out of memory.
    pub fn template(environment: &Environment<'static>, source: &str, syntax: &SyntaxConfig) -> Result<Self, Failure> {
        check_size(source, false, syntax)?;
        Self::compile(environment, source, &|source| {
            let config =
                TemplateConfig { syntax_config: syntax.clone(), default_auto_escape: Arc::new(|_| AutoEscape::None) };
            let CompiledTemplate { instructions, blocks, .. } = CompiledTemplate::new(NAME, source, &config)?;
            Ok(Compiled { main: instructions, blocks })
        })
    }

    /// Compiles the expression `source`, which [`Program::value`] evaluates in `environment`.
    ///
    /// # Errors
    /// As [`Program::template`].
    pub fn expression(environment: &Environment<'static>, source: &str) -> Result<Self, Failure> {
        check_size(source, true, &SyntaxConfig::default())?;
        Self::compile(environment, source, &|source| {
            let expression = parse_expr(source)?;
            let mut generator = CodeGenerator::new(NAME, source);
            generator.compile_expr(&expression);
            let (main, blocks) = generator.finish();
            Ok(Compiled { main, blocks })
        })
    }

    fn compile(
        environment: &Environment<'static>,
        source: &str,
        compile: &(dyn for<'a> Fn(&'a str) -> Result<Compiled<'a>, Error> + Sync),
    ) -> Result<Self, Failure> {
        let mut names = VariableNames::default();
        let code = on_deep_stack(|| {
            Code::try_new(source.to_owned(), |source| {
                let mut compiled = compile(source)?;
                for instructions in std::iter::once(&mut compiled.main).chain(compiled.blocks.values_mut()) {
                    guard(instructions, &mut names)?;
                }
                Ok::<_, Failure>(compiled)
            })
        })?;
        let variables = names.read.difference(&names.set).cloned().collect();
        let clear: String = names.attributes.iter().map(|name| format!("{{% set n.{name} = none %}}")).collect();
        let clear = format!("{{% for n in all %}}{clear}{{% endfor %}}");
        Ok(Self { code, environment: environment.clone(), variables, clear })
    }

    /// The source.
    pub fn source(&self) -> &str {
        self.code.borrow_owner()
    }

    /// Names of the variables that it reads and does not set.
    pub fn variables(&self) -> &HashSet<String> {
        &self.variables
    }

    /// The text that the template makes of `variables`, and the fuel that was used; never more than `fuel`.
    ///
    /// # Errors
    /// When it refuses the variables, or needs more fuel.
    pub fn render(&self, variables: Value, fuel: u64) -> Result<(String, u64), Failure> {
        let (_, text, used) = on_deep_stack(|| self.run(variables, fuel))?;
        Ok((text, used))
    }

    /// Evaluates the expression for `variables`.
    ///
    /// # Errors
    /// As [`Program::render`].
    pub fn value(&self, variables: Value, fuel: u64) -> Result<Value, Failure> {
        let (value, ..) = on_deep_stack(|| self.run(variables, fuel))?;
        Ok(value.unwrap_or_default())
    }

    /// The value that is left, the text and the fuel that was used.
    fn run(&self, variables: Value, fuel: u64) -> Result<(Option<Value>, String, u64), Failure> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        // Namespaces that hold each other would never be freed.
        let namespaces = Namespaces { all: Arc::default(), clear: &self.clear };
        let all = Arc::clone(&namespaces.all);
        environment.add_function("namespace", move |defaults: Option<ValueOrKwargs>| -> Result<Value, Error> {
            let made = minijinja::functions::namespace(defaults)?;
            all.lock().unwrap_or_else(PoisonError::into_inner).push(made.clone());
            Ok(made)
        });
        let Compiled { main, blocks } = self.code.borrow_dependent();
        let mut text = String::new();
        let mut out = make_string_output(&mut text);
        let (value, state) = eval(&environment, main, variables, blocks, &mut out, AutoEscape::None)?;
        if let Some(value) = &value {
            charge(&state, [value])?; // whoever gets it may print it
        }
        let used = state.fuel_levels().map_or(0, |(used, _)| used);
        drop(state);
        Ok((value, text, used))
    }
}

/// The namespaces that a run of a program made. When this is dropped, however the run ended, they are emptied.
struct Namespaces<'a> {
    all: Arc<Mutex<Vec<Value>>>,
    clear: &'a str,
}

impl Drop for Namespaces<'_> {
    fn drop(&mut self) {
        let all = std::mem::take(&mut *self.all.lock().unwrap_or_else(PoisonError::into_inner));
        if !all.is_empty() {
            let cleared = Environment::empty().render_str(self.clear, Value::from_pairs([("all", Value::from(all))]));
            debug_assert!(cleared.is_ok(), "{cleared:?}");
        }
    }
}

/// The name of every template; it ends in nothing that would turn escapes on.
const NAME: &str = "template";

thread_local! {
    /// Whether this thread's stack is deep.
    static IS_DEEP: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on a stack that is large enough for the deepest source that [`check_size`] lets through, and for the deepest
/// value that a template makes before its fuel is used up.
///
/// # Errors
/// Those of `work`, and when no thread can be started.
pub(crate) fn on_deep_stack<T: Send, E: Send + From<Failure>>(
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    if IS_DEEP.get() {
        return work();
    }
    let work = || {
        IS_DEEP.set(true);
        quietly(work).unwrap_or_else(|panicked| {
            Err(Failure::new(format!("the template engine failed ({panicked})"), None).into())
        })
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(DEEP_STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|e| Failure::new(format!("cannot start a thread: {e}"), None))?;
        thread.join().unwrap_or_else(|_| Err(Failure::new("the template thread failed", None).into()))
    })
}

/// Refuses sources whose length or nesting would overflow the parser's stack.
fn check_size(source: &str, is_expression: bool, syntax: &SyntaxConfig) -> Result<(), Failure> {
    if source.len() > LONGEST_SOURCE {
        let what = format!("it has {} bytes; the maximum is {LONGEST_SOURCE}", source.len());
        return Err(Failure::new(what, None));
    }
    let (mut tokens, mut branches) = (0, 0);
    for token in tokenize(source, is_expression, syntax.clone()) {
        let Ok((token, span)) = token else { return Ok(()) }; // the parser says what is wrong
        match token {
            Token::VariableStart | Token::BlockStart => tokens = 0,
            Token::Ident("elif") => branches += 1,
            _ => {}
        }
        tokens += 1;
        let line = Some(usize::from(span.start_line));
        if tokens > LONGEST_TAG {
            return Err(Failure::new(format!("an expression has more than {LONGEST_TAG} tokens"), line));
        }
        if branches > MOST_BRANCHES {
            return Err(Failure::new(format!("it has more than {MOST_BRANCHES} elif branches"), line));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    fn run(source: &str) -> Result<String, Failure> {
        run_with(source, BASE_FUEL)
    }

    fn run_with(source: &str, fuel: u64) -> Result<String, Failure> {
        let environment = environment(UndefinedBehavior::Lenient);
        let program = Program::template(&environment, source, &SyntaxConfig::default())?;
        let messages = Value::from(vec![Value::from_pairs([("role", "user"), ("content", "hello")])]);
        program.render(context! { messages }, fuel).map(|(text, _)| text)
    }

    #[test]
    fn templates_compute_what_jinja_computes() {
        for (source, expected) in [
            ("{{ 1 + 2 }} {{ 1.5 + 1 }} {{ 'a' + 'b' }} {{ [1] + [2] }}", "3 2.5 ab [1, 2]"),
            ("{{ 3 * 'ab' }} {{ [1, 2] * 2 }} {{ 2 * 2.5 }} {{ 7 * 6 }}", "ababab [1, 2, 1, 2] 5.0 42"),
            ("{{ 'a' ~ 1 ~ [2] ~ none }}", "a1[2]None"),
            ("{{ 1 == 1.0 }} {{ 'a' < 'b' }} {{ [1] != [1] }} {{ 2 >= 3 }}", "True True False False"),
            ("{{ 'a' in 'cab' }} {{ 1 in [2] }} {{ 'k' in {'k': 1} }} {{ 3 not in [3] }}", "True False True False"),
            (
                "{{ 'abc'[1:] }} {{ [1,2,3][::-1] }} {{ 'abc'[-1] }} {{ [1,2][1] }} {{ {'a': 3}['a'] }}",
                "bc [3, 2, 1] c 2 3",
            ),
            ("{{ messages[0]['content'].upper() }} {{ messages[0].role }} {{ messages[5] }}", "HELLO user "),
            (
                "{{ {'a': [1, {'b': none}]}|tojson(indent=2) }}",
                "{\n  \"a\": [\n    1,\n    {\n      \"b\": null\n    }\n  ]\n}",
            ),
            ("{{ 'a-b'.split('-')[-1] }} {{ 'a b'.split()|join('+') }} {{ ' x '.strip() }}", "b a+b x"),
            ("{{ messages|selectattr('role', 'equalto', 'user')|list|length }}", "1"),
            (
                "{% set ns = namespace(l=[]) %}{% for i in range(3) %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.l }}",
                "[0, 1, 2]",
            ),
            ("{{ '%s-%03d'|format('a', 7) }} {{ '{}:{x}'.format(1, x=2) }}", "a-007 1:2"),
            ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ {'a': 1}.get('b', 2) }}", "a12"),
            ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m('a') + m('b') }}", "<a><b>"),
            ("{% for x in [1, 2] recursive %}{{ x }}{% if not loop.last %},{% endif %}{% endfor %}", "1,2"),
            (
                "{{ 'b' if messages is defined and messages is not string else 'c' }} {{ 3 is divisibleby(3) }}",
                "b True",
            ),
            (
                "{{ [3, 1, 2]|sort|join }} {{ [1, 1]|unique|list }} {{ 'x'|default('y') }} {{ [[1, 2], [3]]|map('length')|sum }}",
                "123 [1] x 3",
            ),
        ] {
            assert_eq!(run(source).as_deref(), Ok(expected), "{source}");
        }
    }

    /// Each would take gigabytes, hours or the stack.
    #[test]
    fn hostile_templates_are_refused_in_words() {
        let doubled = |start: &str, double: &str, end: &str| {
            format!(
                "{{% set ns = namespace(x={start}) %}}{{% for i in range(60) %}}{{% set ns.x = {double} %}}{{% endfor %}}{end}"
            )
        };
        let lists = |end: &str| doubled("[1]", "[ns.x, ns.x]", end);
        let mut sources = vec![
            "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}hi".to_owned(),
            doubled("'aaaa'", "ns.x ~ ns.x", "{{ ns.x|length }}"),
            doubled("'aaaa'", "ns.x + ns.x", "{{ ns.x|length }}"),
            doubled("'aaaa'", "ns.x * 2", "{{ ns.x|length }}"),
            doubled("'aaaa'", "ns.x|replace('a', 'aa')", ""),
            doubled("'aaaa'", "ns.x.replace('a', 'aa')", ""),
            doubled("'aaaa'", "[ns.x, ns.x]|join(ns.x)", ""),
            doubled("'aaaa'", "ns.x.join([ns.x, ns.x])", ""),
            doubled("'aaaa'", "'%s%s'|format(ns.x, ns.x)", ""),
            doubled("'aaaa'", "'{0}{0}'.format(ns.x)", ""),
            doubled("[1]", "ns.x + ns.x", "{{ ns.x|length }}"),
            doubled("[1]", "ns.x * 2", "{{ ns.x|length }}"),
            doubled("[1]", "ns.x|chain(ns.x)|list", ""),
            doubled("[1]", "[ns.x|list, ns.x|list]", "{{ ns.x }}"),
            doubled("{}", "dict(a=ns.x, b=ns.x)", "{{ ns.x }}"),
            doubled("{}", "{'a': ns.x, 'b': ns.x}", "{{ ns.x }}"),
            doubled("[1]", "ns.x|batch(2, ns.x)|list", "{{ ns.x }}"),
            "{% set a = namespace() %}{% set a.a = a %}{{ a }}".to_owned(),
            "{% set a = namespace() %}{% set a.a = a %}{{ a == [a] or a|string }}".to_owned(),
            "{{ [1] * 100000000 }}".to_owned(),
            "{{ ([1] * 100000000)|upper }}".to_owned(),
            "{{ [('a' * 1000000)] * 1000 ~ 'a' }}".to_owned(),
            "{{ ('a' * 30000000).split('') }}".to_owned(),
            "{{ ('a' * 30000000)|split('')|list }}".to_owned(),
            "{{ '%999999999999d'|format(1) }}".to_owned(),
            "{{ '%*d'|format(999999999999, 1) }}".to_owned(),
            "{{ '%.999999999999f'|format(1) }}".to_owned(),
            "{{ '{:999999999999d}'.format(1) }}".to_owned(),
            "{{ '{:.999999999999f}'.format(1.5) }}".to_owned(),
            "{{ 'a\\nb'|indent(999999999999) }}".to_owned(),
            "{{ 'a\\nb'|indent(width=999999999999) }}".to_owned(),
            "{{ [1]|tojson(indent=999999999999) }}".to_owned(),
            "{{ [1]|tojson(999999999999) }}".to_owned(),
            "{{ [1]|batch(999999999999, 'x') }}".to_owned(),
            "{{ [1]|slice(999999999999) }}".to_owned(),
            "{{ 'a' * 999999999999 }}".to_owned(),
            "{% for i in range(100000) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' * 1000 }}{% endfor %}".to_owned(),
            "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}".to_owned(),
            "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(100) }}".to_owned(),
            "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}".to_owned(),
            "{% set ns = namespace(x=[1]) %}{% for i in range(100000) %}{% set ns.x = ns.x|reverse %}{% endfor %}{{ ns.x.y.z }}".to_owned(),
            "{% set ns = namespace(x=[1]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}".to_owned(),
            "{% set ns = namespace(x=1) %}{% for i in range(100000) %}{% set n = namespace(x=ns.x) %}{% set ns.x = n %}{% endfor %}{{ ns.x }}".to_owned(),
            "{% set s = 'é' * 10000000 %}{% for i in range(100000) %}{% set t = s[-1] ~ s[1:2] %}{% endfor %}".to_owned(),
            "{% set s = 'a' * 10000000 %}{% set t = s ~ '' %}{% for i in range(100000) %}{% if s == t %}{% endif %}{% endfor %}".to_owned(),
            "{{ raise_exception([[1] * 1000] * 100000000) }}".to_owned(),
        ];
        for end in [
            "{{ ns.x }}",
            "{{ ns.x ~ '' }}",
            "{{ ns.x|string }}",
            "{{ ns.x|upper }}",
            "{{ ns.x|tojson }}",
            "{{ ns.x|pprint }}",
            "{{ ns.x|join }}",
            "{{ ns.x == [ns.x[0], ns.x[1]] }}",
            "{{ ns.x in [[ns.x[0], ns.x[1]]] }}",
            "{{ {ns.x: 1} }}",
            "{{ [ns.x, ns.x]|unique|list }}",
            "{{ [ns.x, ns.x]|sort }}",
            "{{ {}[ns.x] }}",
            "{{ ns.x is eq([ns.x[0], ns.x[1]]) }}",
            "{{ ''.join(ns.x) }}",
            "{{ '{}'.format(ns.x) }}",
            "{{ '%s'|format(ns.x) }}",
            "{{ raise_exception(ns.x) }}",
            "{{ ns.x < [ns.x[0], ns.x[1]] }}",
            "{{ [ns.x].count([ns.x[0], ns.x[1]]) }}",
            "{{ [ns.x]|map('string')|list }}",
            "{{ ns.x == ns.x == ns.x }}",
            "{{ 'a'|replace('a', ns.x) }}",
            "{{ {}.get(ns.x) }}",
            "{% autoescape true %}{{ ns.x }}{% endautoescape %}",
        ] {
            sources.push(lists(end));
        }
        for source in sources {
            let failure = run_with(&source, BASE_FUEL / 20).map(|text| text.len()).expect_err(&source);
            assert!(!failure.what.is_empty() && failure.what.len() < 1100, "{source}: {failure:?}");
        }
    }

    #[test]
    fn namespaces_that_hold_each_other_are_freed() {
        #[derive(Debug)]
        struct Held;
        impl minijinja::value::Object for Held {}
        let cycle = "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = [b] %}{% set a.held = held %}";
        for end in ["", "{{ 1 // 0 }}"] {
            let held = Arc::new(Held);
            let environment = environment(UndefinedBehavior::Strict);
            let program = Program::template(&environment, &format!("{cycle}{end}"), &SyntaxConfig::default()).unwrap();
            let value = Value::from_dyn_object(minijinja::value::DynObject::new(Arc::clone(&held)));
            let result = program.render(Value::from_pairs([("held", value)]), BASE_FUEL);
            assert_eq!(result.is_ok(), end.is_empty(), "{result:?}");
            assert_eq!(Arc::strong_count(&held), 1, "{end}");
        }
    }

    #[test]
    fn an_endless_template_ends_with_its_fuel() {
        let failure =
            run("\n{% for i in range(100000) %}{% for j in range(100000) %}\n{% endfor %}{% endfor %}hi").unwrap_err();
        assert_eq!(failure.line, Some(2));
        assert!(failure.what.contains("needs too much computation"), "{failure:?}");
    }

    #[test]
    fn sources_that_would_overflow_the_parser_are_refused_with_their_line() {
        let tag = |inside: String| format!("\n{{{{ {inside} }}}}");
        for (source, line) in [
            (tag(format!("1{}", "+1".repeat(300_000))), Some(2)),
            (tag(format!("{}1", "not ".repeat(200_000))), Some(2)),
            (tag(format!("{}1", "-".repeat(200_000))), Some(2)),
            (tag(format!("'a'{}", "|upper".repeat(100_000))), Some(2)),
            (tag(format!("a{}", ".a".repeat(100_000))), Some(2)),
            (tag(format!("a{}", "[0]".repeat(100_000))), Some(2)),
            (tag(format!("{}1{}", "[".repeat(1000), "]".repeat(1000))), Some(2)),
            (tag(format!("{}1{}", "(".repeat(1000), ")".repeat(1000))), Some(2)),
            (tag(format!("1{}", " if 1 else 1".repeat(50_000))), Some(2)),
            (tag(format!("2{}", "**2".repeat(100_000))), Some(2)),
            (tag(format!("1{}", "<1".repeat(100_000))), Some(2)),
            (tag(format!("1{}", " is defined".repeat(50_000))), Some(2)),
            (format!("{}{}", "{% if 1 %}".repeat(1000), "{% endif %}".repeat(1000)), Some(1)),
            (format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(80_000)), Some(1)),
            (format!("{}{}", "{% for i in a %}".repeat(1000), "{% endfor %}".repeat(1000)), Some(1)),
            ("a".repeat(LONGEST_SOURCE + 1), None),
        ] {
            let failure = run(&source).map(|text| text.len()).expect_err(&source[..40]);
            assert_eq!(failure.line, line, "{} {failure:?}", &source[..40]);
        }
        // The deepest that is let through does not overflow either.
        for source in [
            tag(format!("1{}", "+1".repeat(9_000))),
            tag(format!("{}1", "not ".repeat(19_000))),
            tag(format!("{}1", "-".repeat(19_000))),
            tag(format!("'a'{}", "|upper".repeat(9_000))),
            tag(format!("a{}", ".a".repeat(9_000))),
            tag(format!("1{}", " if 1 else 1".repeat(4_000))),
            tag(format!("2{}", "**1".repeat(9_000))),
            format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(900)),
        ] {
            let _ = run(&source);
        }
    }
}
