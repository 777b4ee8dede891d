//! Compiles the kernels of the device path, with the feature `cuda`.

#[cfg(feature = "cuda")]
fn main() -> cudaforge::Result<()> {
    println!("cargo::rerun-if-changed=src/device");
    let sources = ["src/device/kernels.cu", "src/device/attention.cu"];
    let builder = cudaforge::KernelBuilder::new().source_files(sources).watch(["src/device/shared.cuh"]);
    builder.arg("-std=c++17").arg("-O3").build_ptx().map(|_| ())
}

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
