//! Files come back as they were written; damaged and hostile ones are refused by what is wrong with them.

use crate::{GgmlDType, GgufFile, GgufValue, GgufWriter, Metadata, TensorPlan, is_gguf};
use candle_core::{Device, Tensor};
use std::path::{Path, PathBuf};

const ALL: [GgmlDType; 13] = [
    GgmlDType::F32,
    GgmlDType::F16,
    GgmlDType::BF16,
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q2K,
    GgmlDType::Q3K,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];

fn metadata() -> Metadata {
    let mut metadata = Metadata::default();
    metadata.add("general.architecture", GgufValue::Text("gpt2".to_owned()));
    metadata.add("size", GgufValue::Integer(7));
    metadata.add("ratio", GgufValue::Float(0.5));
    metadata.add("flag", GgufValue::Bool(true));
    metadata.add("tokens", GgufValue::Texts(vec!["a".to_owned(), "日本".to_owned()]));
    metadata.add("types", GgufValue::Integers(vec![1, -3]));
    metadata
}

fn plan(name: &str, shape: &[usize], dtype: GgmlDType) -> TensorPlan {
    TensorPlan { name: name.to_owned(), shape: shape.to_vec(), dtype }
}

fn values(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    Tensor::from_iter((0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0), &Device::Cpu)
        .unwrap()
        .reshape(shape)
        .unwrap()
}

fn bytes(metadata: &Metadata, plans: &[TensorPlan]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = GgufWriter::begin(&mut bytes, metadata, plans.to_vec()).unwrap();
    plans.iter().for_each(|plan| writer.write(&values(&plan.shape)).unwrap());
    writer.finish().unwrap();
    bytes
}

/// A file with two tensors: 3 · 4 and 5 values of 32 bits.
fn small() -> Vec<u8> {
    bytes(&metadata(), &[plan("one", &[3, 4], GgmlDType::F32), plan("two", &[5], GgmlDType::F32)])
}

fn saved(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("model.gguf");
    std::fs::OpenOptions::new().create(true).write(true).truncate(true).open(&path).unwrap();
    std::io::Write::write_all(&mut std::fs::OpenOptions::new().append(true).open(&path).unwrap(), bytes).unwrap();
    path
}

fn error(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let error = format!("{:#}", GgufFile::open(&saved(folder.path(), bytes)).unwrap_err());
    assert!(error.contains("model.gguf cannot be read as GGUF"), "{error}");
    error
}

/// Where `text` begins in `bytes`.
fn at(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).position(|part| part == text.as_bytes()).unwrap()
}

/// `bytes` with `new` from `start` on.
fn changed(mut bytes: Vec<u8>, start: usize, new: &[u8]) -> Vec<u8> {
    bytes[start..start + new.len()].copy_from_slice(new);
    bytes
}

#[test]
fn metadata_and_tensors_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let plans: Vec<TensorPlan> =
        ALL.iter().enumerate().map(|(i, &dtype)| plan(&format!("t{i}"), &[2, 256], dtype)).collect();
    let file = GgufFile::open(&saved(folder.path(), &bytes(&metadata(), &plans))).unwrap();
    assert_eq!(file.metadata, metadata());
    for (tensor, plan) in file.tensors.iter().zip(&plans) {
        assert_eq!((&tensor.name, &tensor.shape, tensor.dtype), (&plan.name, &plan.shape, plan.dtype));
        assert!(tensor.range.start % 32 == 0 && tensor.range.end - tensor.range.start == plan.n_bytes().unwrap());
        let found = file.load(tensor, &Device::Cpu).unwrap();
        let off = (found - values(&plan.shape)).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        // Half a step of the values from -1 to 1, and some more for scales of few bits.
        let most = match plan.dtype {
            GgmlDType::F32 => 0.0,
            GgmlDType::F16 | GgmlDType::BF16 | GgmlDType::Q8_0 => 0.005,
            GgmlDType::Q6K => 0.04,
            GgmlDType::Q5_0 | GgmlDType::Q5_1 | GgmlDType::Q5K => 0.07,
            GgmlDType::Q4_0 | GgmlDType::Q4_1 | GgmlDType::Q4K => 0.14,
            _ => 0.5,
        };
        assert!(off <= most && (off > 0.0 || plan.dtype == GgmlDType::F32), "{:?} is off by {off}", plan.dtype);
    }
    assert!(file.are_equal(&file.tensors[0], &file.tensors[0]).unwrap());
    assert!(!file.are_equal(&file.tensors[0], &file.tensors[1]).unwrap());
}

/// Tensors are quantized some rows at a time.
#[test]
fn large_tensors_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let shape = [5000, 512];
    let plans = [plan("exact", &shape, GgmlDType::F32), plan("blocks", &shape, GgmlDType::Q8_0)];
    let file = GgufFile::open(&saved(folder.path(), &bytes(&metadata(), &plans))).unwrap();
    for (tensor, most) in file.tensors.iter().zip([0.0, 0.005]) {
        let off = (file.load(tensor, &Device::Cpu).unwrap() - values(&shape)).unwrap().abs().unwrap();
        assert!(off.max_all().unwrap().to_scalar::<f32>().unwrap() <= most, "{}", tensor.name);
    }
}

/// Version, alignment and places by the specification, byte for byte.
#[test]
fn the_bytes_are_those_of_the_specification() {
    let mut metadata = Metadata::default();
    metadata.add("a", GgufValue::Integer(9));
    let found = bytes(&metadata, &[plan("t", &[2, 1], GgmlDType::F32)]);
    let mut expected: Vec<u8> = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
    expected.extend(b"\x01\0\0\0\0\0\0\0a\x04\0\0\0\x09\0\0\0");
    expected.extend(b"\x01\0\0\0\0\0\0\0t\x02\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    expected.resize(96, 0);
    expected.extend([-1.0f32, -0.26].map(f32::to_le_bytes).concat());
    expected.resize(128, 0);
    assert_eq!(found, expected);
}

#[test]
fn files_that_are_cut_off_are_refused_at_every_length() {
    let whole = small();
    let padding = 12; // after the last tensor of 20 bytes
    for n in 0..whole.len() - padding {
        let error = error(&whole[..n]);
        assert!(error.contains("the file ends within") || error.contains("bytes are left"), "{n}: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(GgufFile::open(&saved(folder.path(), &whole[..whole.len() - padding])).is_ok());
}

#[test]
fn what_is_wrong_is_named() {
    let whole = small();
    let (two, tokens) = (at(&whole, "two"), at(&whole, "tokens"));
    let huge = u64::MAX.to_le_bytes();
    let many = 90_000u64.to_le_bytes();
    for (start, new, says) in [
        (0, &b"GGML"[..], "does not begin with GGUF"),
        (4, &1u32.to_le_bytes(), "its version is 1; supported: 2 and 3"),
        (4, &3u32.to_be_bytes(), "big-endian"),
        (8, &huge, "claims to have 18446744073709551615 tensors; the maximum is 100000"),
        (8, &many, "claims to have 90000 tensors, but only"),
        (16, &huge, "claims to have 18446744073709551615 metadata entries"),
        (24, &huge, "in the name of metadata entry 0: a text is 18446744073709551615 bytes long"),
        (tokens + 6, &77u32.to_le_bytes(), "in the metadata entry tokens: its type 77 is unknown"),
        (tokens + 10, &9u32.to_le_bytes(), "list of lists"),
        (tokens + 14, &huge, "in the metadata entry tokens: it claims to have 18446744073709551615 items"),
        (tokens + 14, &many, "in the metadata entry tokens: it claims to have 90000 items, but only"),
        (tokens + 30, &[0xFF], "in the metadata entry tokens: a text is not UTF-8"),
        (two - 8, &huge, "in the name of tensor 1: a text is 18446744073709551615 bytes long"),
        (two, b"one", "two tensors called one"),
        (two + 3, &9u32.to_le_bytes(), "tensor two has 9 dimensions"),
        (two + 7, &0u64.to_le_bytes(), "tensor two has the shape [0], which is out of range"),
        (two + 7, &huge, "tensor two has the shape [18446744073709551615], which is out of range"),
        (two + 7, &(1u64 << 32).to_le_bytes(), "the file ends within tensor two"),
        (two + 15, &20u32.to_le_bytes(), "tensor two has the data type 20, which is not supported; supported: F32"),
        (two + 15, &8u32.to_le_bytes(), "rows of 5 values, which are not whole blocks of 32 (Q8_0)"),
        (two + 19, &1u64.to_le_bytes(), "tensor two is not aligned to 32 bytes"),
        (two + 19, &32u64.to_le_bytes(), "the tensors one and two overlap"),
        (two + 19, &0u64.to_le_bytes(), "overlap"),
        (two + 19, &(1u64 << 40).to_le_bytes(), "the file ends within tensor two"),
        (two + 19, &(u64::MAX - 31).to_le_bytes(), "the file ends within tensor two"),
        (two + 19, &(u64::MAX - 15).to_le_bytes(), "tensor two lies beyond the file's end"),
    ] {
        let error = error(&changed(whole.clone(), start, new));
        assert!(error.contains(says), "expected {says:?}, found {error:?}");
    }
    for (key, value, says) in [
        ("size", GgufValue::Integer(1), "two metadata entries called size"),
        ("general.alignment", GgufValue::Integer(0), "general.alignment is 0"),
        ("general.alignment", GgufValue::Integer(48), "general.alignment is 48"),
        ("general.alignment", GgufValue::Bool(true), "general.alignment is not an integer"),
    ] {
        let mut metadata = metadata();
        metadata.add(key, value);
        let error = error(&bytes(&metadata, &[]));
        assert!(error.contains(says), "expected {says:?}, found {error:?}");
    }
}

/// Whatever a byte is changed to, the file is read or refused, and tensors lie within it.
#[test]
fn no_changed_byte_leads_out_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let whole = small();
    let mut refused = 0;
    for at in 0..whole.len() {
        for byte in [0, 1, 7, 8, 9, 0x7F, 0x80, 0xFF] {
            let path = saved(folder.path(), &changed(whole.clone(), at, &[byte]));
            let Ok(file) = GgufFile::open(&path) else {
                refused += 1;
                continue;
            };
            for tensor in &file.tensors {
                assert!(tensor.range.end <= whole.len() as u64, "byte {at} is {byte}");
                file.load(tensor, &Device::Cpu).unwrap();
            }
        }
    }
    assert!(refused > 500, "{refused}");
}

#[test]
fn a_file_that_is_shortened_after_it_was_opened_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path(), &small());
    let file = GgufFile::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(300).unwrap();
    let error = file.load(file.tensor("two").unwrap(), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("two in ") && error.contains("cannot be read"), "{error}");
}

#[test]
fn a_file_is_known_by_its_name_or_its_first_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path(), &small());
    let other = folder.path().join("sha256-0");
    std::fs::copy(&path, &other).unwrap();
    assert!(is_gguf(&path) && is_gguf(&other));
    saved(folder.path(), b"x");
    assert!(is_gguf(&path), "so that it is refused as a damaged one");
    std::fs::copy(&path, &other).unwrap();
    assert!(!is_gguf(&other) && !is_gguf(folder.path()));
}

#[test]
fn only_what_was_announced_is_written() {
    let mut writer = GgufWriter::begin(Vec::new(), &metadata(), vec![plan("one", &[3, 4], GgmlDType::F32)]).unwrap();
    assert!(writer.write(&values(&[4, 3])).unwrap_err().to_string().contains("one has the shape [4, 3]"));
    assert!(writer.write(&values(&[3, 4])).unwrap_err().to_string().contains("more tensors"));
    let writer = GgufWriter::begin(Vec::new(), &metadata(), vec![plan("one", &[3, 4], GgmlDType::F32)]).unwrap();
    assert!(writer.finish().unwrap_err().to_string().contains("1 tensors are missing"));
    let odd = GgufWriter::begin(Vec::new(), &metadata(), vec![plan("one", &[3, 4], GgmlDType::Q8_0)]);
    assert!(odd.unwrap_err().to_string().contains("one cannot be written as Q8_0"));
    let mut writer = GgufWriter::begin(Vec::new(), &metadata(), vec![plan("one", &[1], GgmlDType::F16)]).unwrap();
    let large = writer.write(&Tensor::new(&[7e4f32], &Device::Cpu).unwrap()).unwrap_err();
    assert!(format!("{large:#}").contains("too large for F16"), "{large:#}");
}
