//! From an export to its records and people, and back.

use super::{exported, feedback, filled, id, ranking};
use crate::export::{ExportFilter, ExportKind};
use crate::records::{RecordId, RecordKind};
use crate::trace::{NotedRecord, export_at, store_of};
use gptkit_data::disk;

#[test]
fn an_export_leads_to_its_records_and_a_record_to_its_exports() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path());
    let answers = [id("r1", 0), id("r1", 1)];
    store.add(&feedback("c1", "ann", ranking(&answers, Some(&[1, 2]), None))).unwrap();
    let path = folder.path().join("c.jsonl");
    let all = ExportFilter::default();
    store.export_to(ExportKind::Comparisons, &all, &path).unwrap();
    store.export_to(ExportKind::Comparisons, &all, &path).unwrap();
    assert_eq!(store.exports().unwrap().len(), 1, "the same file again is the same export");
    store.add(&feedback("c2", "bob", ranking(&answers, Some(&[2, 1]), None))).unwrap();
    store.export_to(ExportKind::Comparisons, &all, &path).unwrap();
    let exports = store.exports().unwrap();
    let first = RecordId { kind: RecordKind::Ranking, number: 1 };
    let second = RecordId { number: 2, ..first };
    assert_eq!(exports[1].hash, disk::file_hash(&path).unwrap());
    assert_eq!(
        exports[1].people.clone().into_iter().collect::<Vec<_>>(),
        [("ann".to_owned(), vec![first]), ("bob".to_owned(), vec![second])]
    );
    let summary = export_at(&path, &exports[1].hash).unwrap().unwrap();
    assert_eq!(
        (summary.file.as_str(), summary.export, summary.kind.as_str(), summary.records),
        ("c.jsonl", 2, "comparisons", 2)
    );
    assert_eq!(export_at(&path, &exports[0].hash).unwrap(), None, "the manifest is of the second export");
    let of = |record| store.exports_with(record).unwrap();
    assert_eq!((of(first), of(second)), (vec![exports[0].export, exports[1].export], vec![exports[1].export]));
    let Some(NotedRecord::Stored { who, .. }) = store.record(second).unwrap() else { panic!("it is stored") };
    assert_eq!(who.as_deref(), Some("bob"));
    assert_eq!(store.record(RecordId { number: 3, ..first }).unwrap(), None);
    // The file leads to the store, and each of its lines to a record.
    assert_eq!(store_of(&path).unwrap(), Some(folder.path().canonicalize().unwrap()));
    assert_eq!(store_of(&folder.path().join("other.jsonl")).unwrap(), None);
    assert_eq!(exported(&store, ExportKind::Comparisons, &all)[1]["record"], "ranking-2");
    let text = store.download(ExportKind::Comparisons, &all).unwrap();
    let downloaded = store.exports().unwrap().pop().unwrap();
    assert_eq!(
        (downloaded.hash.as_str(), downloaded.n_records()),
        (blake3::hash(text.as_bytes()).to_hex().as_str(), 2)
    );
}

#[test]
fn a_record_is_named_by_its_kind_and_number() {
    let record: RecordId = "ranking-7".parse().unwrap();
    assert_eq!((record, record.to_string().as_str()), (RecordId { kind: RecordKind::Ranking, number: 7 }, "ranking-7"));
    for wrong in ["", "ranking", "ranking-", "ranking-x", "ranking--7", "ranking-0", "rankings-7", "7"] {
        let error = wrong.parse::<RecordId>().unwrap_err();
        assert!(error.contains("is not the name of a record, such as ranking-7"), "{error}");
    }
}
