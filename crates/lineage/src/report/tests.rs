use super::*;
use crate::example;
use crate::measured::OwnDataNote;

/// Elements that have no end.
const VOID: [&str; 2] = ["meta", "br"];

/// Elements in their order, each beginning met by its end; panics where one is not.
fn elements(page: &str) -> Vec<String> {
    let (mut open, mut all) = (Vec::new(), Vec::new());
    // A style sheet is no markup.
    let (before, rest) = page.split_once("<style>").unwrap();
    let (style, after) = rest.split_once("</style>").unwrap();
    assert!(!style.contains('<'));
    for piece in before.split('<').skip(1).chain(after.split('<').skip(1)) {
        let (tag, _) = piece.split_once('>').unwrap_or_else(|| panic!("<{piece}"));
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap_or("").to_owned();
        if tag.starts_with('!') || VOID.contains(&name.as_str()) {
            continue;
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}>");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "before {piece}");
        } else {
            all.push(name.clone());
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
    }
    assert!(open.is_empty(), "{open:?} do not end");
    all
}

fn page(measured: &StoryMeasurements) -> String {
    let page = render(measured).unwrap();
    assert!(!page.contains("http"), "nothing is loaded from elsewhere");
    assert!(!page.contains("NaN") && !page.contains("undefined") && !page.contains(">none"), "{page}");
    page
}

#[test]
fn a_page_of_nothing_says_so() {
    for measured in [
        StoryMeasurements::default(),
        StoryMeasurements { seeds: vec![SeedMeasurements::default()], ..StoryMeasurements::default() },
    ] {
        let page = page(&measured);
        let elements = elements(&page);
        assert!(!elements.iter().any(|name| name == "figure" || name == "svg"));
        assert_eq!(page.matches("– not measured").count(), rules::all(&measured).len());
        assert!(page.contains("No stage has ended yet"));
    }
}

#[test]
fn every_figure_has_its_commands_and_its_data() {
    let measured = example::measured(3);
    let page = page(&measured);
    let elements = elements(&page);
    let count = |name: &str| elements.iter().filter(|element| *element == name).count();
    let figures = figures::all(&measured);
    assert_eq!(figures.len(), 19, "{:?}", figures.iter().map(|figure| &figure.title).collect::<Vec<_>>());
    assert_eq!(count("figure"), figures.len());
    assert_eq!(count("svg"), figures.len());
    assert_eq!(count("details"), figures.len() + 2, "answers and costs have theirs");
    assert_eq!(page.matches("role=\"img\" aria-label=").count(), figures.len());
    for figure in &figures {
        assert!(!figure.source.commands.is_empty(), "{}", figure.title);
        let data: Value = serde_json::from_str(&figure.source.data).unwrap();
        assert!(data.as_object().is_some_and(|data| !data.is_empty()), "{}", figure.title);
    }
    assert!(
        page.contains("gptkit do ppo-no-ptx --out &#x27;seed-1&#x2f;ppo-no-ptx&#x27;"),
        "commands of the first seed"
    );
    assert!(page.contains("87 stages took 14 min 30 s"), "of all seeds");
}

#[test]
fn chapters_come_in_order_and_mention_what_was_measured() {
    let page = page(&example::measured(1));
    let places: Vec<usize> =
        CHAPTERS.iter().map(|(_, name, year)| page.find(&format!(">{name} <small>{year}")).unwrap()).collect();
    assert!(places.is_sorted(), "{places:?}");
    assert!(page.contains("trains on 10,000 tokens a second, GPT-1 on 20,000"));
    assert!(page.contains("preferred to the base model's in 90% of cases"));
    assert!(page.contains("reproduced (1 of 3 seeds)") && page.contains("200 MB"));
    assert!(page.contains("counted by the embedded world itself"));
}

#[test]
fn what_a_model_says_is_text() {
    let mut measured = example::measured(1);
    let hostile = "<script>alert(1)</script> & \"quoted\"";
    measured.seeds[0].answers.get_mut("chat-ppo").unwrap()[0] = hostile.to_owned();
    measured.seeds[0].attention.as_mut().unwrap().tokens[0] = hostile.to_owned();
    measured.seeds[0].stages[1].command = format!("gptkit pretrain --data '{hostile}'");
    measured.questions[0] = hostile.to_owned();
    measured.own = vec![OwnDataNote { name: "text".to_owned(), path: hostile.to_owned() }];
    let page = page(&measured);
    assert!(elements(&page).iter().all(|name| name != "script"));
    assert!(page.contains("&lt;script&gt;alert(1)"), "it is there, as text");
    assert!(page.contains("Of your own files &lt;script"));
}

#[test]
fn a_reward_model_that_judges_is_called_a_proxy() {
    let mut measured = example::measured(1);
    measured.seeds[0].wins.values_mut().for_each(|wins| wins.judge = "out/seed-1/rm".to_owned());
    assert!(page(&measured).contains("which is a proxy"));
}

#[test]
fn figures_are_written_as_people_read_them() {
    assert_eq!(
        [4.25, 42.4, 200.0, 1740.0, 3725.0].map(duration),
        ["4.2 s", "42 s", "3 min 20 s", "29 min", "1 h 2 min"]
    );
    assert_eq!([1.34e9, 2.04e8].map(measured_bytes), ["1.3 GB", "204 MB"]);
    assert_eq!(scientific(1.24e13), "1.2 × 10¹³");
    assert_eq!(in_unit(-1234.4, "speed"), "−1,234");
    assert_eq!(
        [in_unit(61.66, "percent"), in_unit(3.04, "points"), in_unit(-0.05, "nats")],
        ["61.7%", "+3.0", "−0.050"]
    );
}

#[test]
fn the_page_and_its_data_are_written() {
    let text = "[data]\ntext = 'a'\npatterns = 'b'\ninstructions = 'c'\nheld-out = 'd'\ncomparisons = 'e'\n\
        [[stages]]\nname = 'lstm'\nchapter = 'transformer'\nrun = 'pretrain --out {out}'\n";
    let config: LineageConfig = toml::from_str(text).unwrap();
    let out = tempfile::tempdir().unwrap();
    let WrittenReport { page, .. } = write(&config, out.path(), &[1, 2], &[("text", "mine.txt".to_owned())]).unwrap();
    let text = std::fs::read_to_string(&page).unwrap();
    assert_eq!(page, out.path().join("report.html"));
    assert!(text.contains("mine.txt gave the text") && text.contains("Not run: lstm."));
    let all: Value = serde_json::from_slice(&std::fs::read(out.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(all["measured"]["not_run"], json!(["lstm"]));
    assert_eq!(all["shapes"].as_array().unwrap().len(), 16);
    assert_eq!(all["shapes"][0]["verdict"], "not_measured");
}
