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
    for loaded in ["src=", "<link", "<script", "@import", "url(http", "<iframe", "data:"] {
        assert!(!page.contains(loaded), "{loaded}: nothing is loaded from elsewhere");
    }
    let links = page.matches("<a href=\"https://").count();
    assert_eq!(page.matches("http").count(), links + page.matches("^=\"http\"").count(), "addresses are links alone");
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
        elements(&page);
        assert!(
            !page.contains("class=\"row chart\"")
                && !page.contains("id=\"stages\"")
                && !page.contains("class=\"row example\"")
        );
        let shapes = rules::all(&measured).len();
        assert_eq!(page.matches("– not measured").count(), 2 * shapes, "in its chapter and in the table");
        assert_eq!(page.matches("No figure was measured for this chapter").count(), CHAPTERS.len());
        assert!(page.contains("No stage has ended yet"));
    }
}

#[test]
fn every_figure_has_its_caption_its_commands_and_its_data() {
    let measured = example::measured(3);
    let page = page(&measured);
    let elements = elements(&page);
    let count = |name: &str| elements.iter().filter(|element| *element == name).count();
    let figures = figures::all(&measured);
    let titles: Vec<&str> = figures.iter().map(|figure| figure.title.as_str()).collect();
    assert_eq!(figures.len(), 22, "{titles:?}");
    assert_eq!(page.matches("class=\"row chart\"").count(), figures.len());
    assert_eq!(count("figure"), figures.len() + CHAPTERS.len(), "each chapter has a diagram");
    assert_eq!(page.matches("role=\"img\" aria-label=").count(), figures.len() + CHAPTERS.len());
    assert_eq!(count("details"), figures.len() + 2, "answers and costs have theirs");
    for figure in &figures {
        assert!(figure.caption.len() > 60, "{}: {}", figure.title, figure.caption);
        assert!(!figure.source.commands.is_empty(), "{}", figure.title);
        let data: Value = serde_json::from_str(&figure.source.data).unwrap();
        assert!(data.as_object().is_some_and(|data| !data.is_empty()), "{}", figure.title);
    }
    assert!(
        page.contains("<span>&#x27;seed-1&#x2f;ppo-no-ptx&#x27;</span>"),
        "commands of the first seed, in whole words"
    );
    assert!(page.contains("153 stages took 25 min 30 s in all"), "of all seeds");
    assert!(page.contains("8 simulated labelers used a server"), "what people did");
    assert!(page.contains("trained on 1,055 exported records of 8 people"), "what came of it");
    assert!(page.len() < 400_000, "{} bytes", page.len());
}

/// The levels of headings in their order.
fn headings(page: &str) -> Vec<usize> {
    (1..=6)
        .flat_map(|level| page.match_indices(&format!("<h{level}")).map(move |(at, _)| (at, level)).collect::<Vec<_>>())
        .collect::<std::collections::BTreeMap<_, _>>()
        .into_values()
        .collect()
}

#[test]
fn the_page_can_be_read_without_seeing_it() {
    let page = page(&example::measured(1));
    let levels = headings(&page);
    assert_eq!(levels[0], 1);
    assert!(
        levels[1..].iter().all(|&level| level > 1) && levels.windows(2).all(|two| two[1] <= two[0] + 1),
        "{levels:?}"
    );
    for landmark in ["<header>", "<nav aria-label=", "<main id="] {
        assert_eq!(page.matches(landmark).count(), 1, "{landmark}");
    }
    for header in page.split("<th").skip(1).filter(|rest| !rest.starts_with("ead")) {
        assert!(header.split('>').next().unwrap().contains("scope="), "<th{}", &header[..40]);
    }
    // Every link inside the page has its end.
    for target in page.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(page.contains(&format!("id=\"{target}\"")), "#{target}");
    }
}

#[test]
fn chapters_come_in_order_and_mention_what_was_measured() {
    let measured = example::measured(1);
    let page = page(&measured);
    let places: Vec<usize> = CHAPTERS
        .iter()
        .map(|(chapter, name, year)| {
            let id = json!(chapter);
            let heading = format!("<h2 id={id}>{name} <small>{year}</small>");
            page.find(&heading).unwrap_or_else(|| panic!("{heading}"))
        })
        .collect();
    assert!(places.is_sorted(), "{places:?}");
    let before = ["id=\"timeline\"", "id=\"questions\"", "id=\"stages\""].map(|id| page.find(id).unwrap());
    let after = ["id=\"claims\"", "id=\"costs\"", "id=\"limits\""].map(|id| page.find(id).unwrap());
    assert!(before.is_sorted() && before[2] < places[0] && after.is_sorted() && places[7] < after[0]);
    assert!(
        page.contains(
            "preferred to the base model’s on 90.1% of prompts, answers after PPO to those after SFT on 70.1%"
        )
    );
    let words = rules::all(&measured)[0].words();
    assert!(page.contains(&words) && page.contains("200 MB"));
    assert!(page.contains("The built-in world judged these answers"));
}

#[test]
fn the_winner_is_bold_whoever_it_is() {
    let mut measured = example::measured(1);
    let before = page(&measured);
    assert!(before.contains("LSTM 1.801, transformer <b>1.201</b>"), "the lower loss is better");
    assert!(before.contains("transformer <b>0.900</b>, LSTM 0.200"), "the higher gain is better");
    assert!(
        before.contains("The Transformer predicts held-out text better")
            && before.contains("The lowest is Transformer.")
    );
    let seed = &mut measured.seeds[0];
    seed.positions.get_mut("lstm").unwrap()[2].1 = 1.0;
    seed.runs.get_mut("lstm").unwrap().best_validation = Some(1.25);
    let after = page(&measured);
    assert!(after.contains("LSTM <b>1.000</b>, transformer 1.201"));
    assert!(after.contains("The LSTM predicts held-out text better") && after.contains("The lowest is LSTM."));
}

#[test]
fn the_table_of_stages_marks_the_best_value_of_a_column() {
    let measured = example::measured(1);
    let table = table::summary(&measured);
    let heads: Vec<&str> = table["columns"].as_array().unwrap().iter().map(|c| c["key"].as_str().unwrap()).collect();
    assert_eq!(
        heads,
        ["parameters", "text_loss", "few_shot", "right", "sampled", "courteous", "tokens", "gold", "preferred"]
    );
    let rows = table["rows"].as_array().unwrap();
    let best = |column: usize| {
        let rows = rows.iter().filter(|row| row["cells"][column]["best"] == true);
        rows.map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!([best(0), best(1), best(2), best(3)], [vec![], vec!["GPT-3"], vec!["GPT-3"], vec!["2nd round"]]);
    assert_eq!(best(4), ["2nd round"]);
    assert!(best(5).is_empty(), "courtesy is neither good nor bad");
    assert_eq!(rows[0]["cells"][1]["text"], "0.800");
    assert!(page(&measured).contains("<b>0.600</b>"));
}

#[test]
fn examples_are_shown_where_they_exist_and_marked_right_or_wrong() {
    let mut measured = example::measured(1);
    let with = page(&measured);
    assert!(with.contains("<p class=\"asked\">Who has the bell?</p>") && with.contains("<td>Gladly! Ida has it.</td>"));
    assert!(
        with.contains("The reward model disagrees with the labeler"),
        "0.25 for the chosen one, 0.75 for the other"
    );
    assert!(with.contains("The 2nd reward model agrees with the labeler"));
    assert!(with.contains("✗ wrong, it is red"));
    assert!(with.contains("<td>chat-ppo says Ben <span class=\"mark good\">✓ right</span></td>"));
    assert!(with.contains("<td>chat-sft says Ben <span class=\"mark bad\">✗ wrong</span></td>"));
    measured.right.clear();
    measured.seeds[0].excerpts = Excerpts::default();
    let without = page(&measured);
    assert!(!without.contains("class=\"row example\"") && !without.contains("class=\"mark"));
    assert!(without.contains("<td>chat-ppo says Ben</td>"), "answers stay, without a mark");
}

#[test]
fn claims_name_their_papers_with_an_address() {
    let measured = example::measured(1);
    for shape in rules::all(&measured) {
        for paper in papers(&shape.source).as_array().unwrap() {
            assert!(paper["url"].is_string(), "{}: {paper}", shape.name);
            let section = paper["section"].as_str().unwrap();
            assert!(section.starts_with(", ") || paper["name"] == "OpenAI 2022", "{}: {paper}", shape.name);
        }
    }
    let two = papers("Vaswani et al. 2017, §4; somebody 1999, §2");
    assert_eq!(two[0]["section"], ", §4");
    assert_eq!((&two[1]["name"], &two[1]["url"]), (&json!("somebody 1999, §2"), &Value::Null));
}

#[test]
fn captions_and_prose_follow_the_figures_both_ways() {
    let mut measured = example::measured(1);
    let before = page(&measured);
    assert!(before.contains("PPO raises the share from 80.1% to 85.1%."));
    assert!(before.contains("the share of right answers rises from 80.1% to 85.1%"));
    assert!(before.contains("the Transformer on 20,001. Attention is faster"));
    assert!(before.contains("at the end the Transformer is ahead by 0.600 nats"));
    assert!(before.contains("The second, which was trained on such answers, is better."));
    let seed = &mut measured.seeds[0];
    seed.grades.get_mut("ppo").unwrap().followed.value = 0.75;
    seed.speeds.get_mut("speed").unwrap().get_mut("lstm").unwrap().tokens_per_cpu_s = 3e4;
    seed.positions.get_mut("lstm").unwrap()[2].1 = 1.0;
    seed.orders.get_mut("order-rm-2").unwrap().value = 0.2;
    let after = page(&measured);
    assert!(after.contains("PPO lowers the share from 80.1% to 75.0%."));
    assert!(after.contains("the share of right answers falls from 80.1% to 75.0%"));
    assert!(after.contains("Attention is not faster here"));
    assert!(after.contains("at the end the LSTM is ahead by 0.201 nats"));
    assert!(after.contains("The second is not better"));
}

#[test]
fn the_csv_has_a_row_for_each_claim_figure_and_seed() {
    let measured = example::measured(2);
    let shapes = rules::all(&measured);
    let bytes = table::csv(&measured, &shapes).unwrap();
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let head = reader.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let column = |name: &str| head.iter().position(|one| one == name).unwrap();
    let of = |kind: &'static str| rows.iter().filter(move |row| &row[0] == kind);
    let pairs: usize = shapes.iter().flat_map(|shape| &shape.comparisons).map(|one| one.pairs.len()).sum();
    assert_eq!(of("claim").count(), pairs);
    let loss = of("figure").find(|row| &row[1] == "gpt3" && &row[column("figure")] == "text_loss").unwrap();
    assert_eq!((&loss[column("value")], &loss[column("seed")], &loss[column("chapter")]), ("0.6", "1", "gpt3"));
    let claim = of("claim").find(|row| &row[1] == "reward-model").unwrap();
    assert_eq!(claim[column("source")], *"Ouyang et al. 2022, §4.1");
    assert!(rows.iter().all(|row| row.len() == head.len()));
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
    assert!(page.contains("Your own files: &lt;script"));
}

#[test]
fn a_reward_model_that_judges_is_called_a_proxy() {
    let mut measured = example::measured(1);
    measured.seeds[0].wins.values_mut().for_each(|wins| wins.judge = "out/seed-1/rm".to_owned());
    assert!(page(&measured).contains("A reward model is a proxy"));
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
    let text = "[data]\ntext = 'a'\npatterns = 'b'\ninstructions = 'c'\nheld-out = 'd'\ncomparisons = 'e'\ncomparisons-unjudged = 'f'\n\
        [[stages]]\nname = 'lstm'\nchapter = 'transformer'\nrun = 'pretrain --out {out}'\n";
    let config: LineageConfig = toml::from_str(text).unwrap();
    let out = tempfile::tempdir().unwrap();
    let WrittenReport { page, .. } = write(&config, out.path(), &[1, 2], &[("text", "mine.txt".to_owned())]).unwrap();
    let text = std::fs::read_to_string(&page).unwrap();
    assert_eq!(page, out.path().join("report.html"));
    assert!(text.contains("mine.txt gave the text") && text.contains("Not run: lstm."));
    let all: Value = serde_json::from_slice(&std::fs::read(out.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(all["measured"]["not_run"], json!(["lstm"]));
    assert_eq!(all["shapes"].as_array().unwrap().len(), 18);
    assert_eq!(all["shapes"][0]["verdict"], "not_measured");
    let csv = std::fs::read_to_string(out.path().join("report.csv")).unwrap();
    assert_eq!(csv.lines().count(), 19, "a head, and a row for each claim");
    assert!(csv.lines().nth(1).unwrap().contains("not measured"), "{csv}");
}
