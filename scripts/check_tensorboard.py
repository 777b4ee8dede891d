#!/usr/bin/env python3
"""Check the event files of runs with TensorBoard itself.

    python scripts/check_tensorboard.py RUNS     what TensorBoard reads in the runs below the folder RUNS
    python scripts/check_tensorboard.py          the reference bytes in the tests of crates/train/src/events.rs

Needs the package tensorboard; the recorded bytes are those of 2.21.0. With RUNS, it fails unless the texts of each
run are its settings and its samples, and the HPARAMS tab lists each run with the settings of its config.toml and at
least one metric. Runs that were resumed have the settings of each process.
"""
import argparse
import json
import pathlib
import sys
import tomllib

from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.compat.proto import event_pb2, summary_pb2, types_pb2
from tensorboard.data import provider
from tensorboard.context import RequestContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups, metadata, plugin_data_pb2, summary_v2


def references():
    event = event_pb2.Event(wall_time=0.5, step=300)
    value = event.summary.value.add(tag="samples/1")
    value.metadata.plugin_data.plugin_name = "text"
    value.metadata.data_class = summary_pb2.DATA_CLASS_TENSOR
    value.tensor.dtype = types_pb2.DT_STRING
    value.tensor.tensor_shape.SetInParent()
    value.tensor.string_val.append(b"    Once\n    more\n")
    print("text", list(event.SerializeToString()))
    for name, kind, setting in [
        ("lr", "number_value", 0.25),
        ("k", "string_value", "cosine"),
        ("k", "bool_value", True),
    ]:
        data = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION)
        data.session_start_info.start_time_secs = 1.5
        setattr(data.session_start_info.hparams[name], kind, setting)
        print("start", setting, list(data.SerializeToString()))
        if name == "lr":
            summary = summary_v2._summary_pb(metadata.SESSION_START_INFO_TAG, data)
            print("summary", list(summary.SerializeToString()))
    data = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION)
    data.session_end_info.status = api_pb2.STATUS_SUCCESS
    data.session_end_info.end_time_secs = 1.5
    print("end", list(data.SerializeToString()))


def settings_of(config):
    """Every key of config.toml but the description, as a hyperparameter has it."""
    left, settings = [("", tomllib.loads(config.read_text()))], {}
    while left:
        prefix, table = left.pop()
        for key, value in table.items():
            if isinstance(value, dict):
                left.append((f"{prefix}{key}.", value))
            else:
                settings[prefix + key] = value
    del settings["description"]
    return settings


def plain(value):
    kind = value.WhichOneof("kind")
    return getattr(value, kind)


def check(folder):
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    data = data_provider.MultiplexerDataProvider(multiplexer, str(folder))
    context, wrong = RequestContext(), []
    every = provider.RunTagFilter()
    texts = data.read_tensors(context, experiment_id="", plugin_name="text", downsample=100000, run_tag_filter=every)
    scalars = data.list_scalars(context, experiment_id="", plugin_name="scalars")
    for run in sorted(multiplexer.Runs()):
        series = {tag: [(datum.step, datum.numpy.item().decode()) for datum in data] for tag, data in texts[run].items()}
        config = "".join(f"    {line}\n" for line in (folder / run / "config.toml").read_text().splitlines())
        if series["config"][-1][1] != config:
            wrong.append(f"{run}: the text of the settings differs from config.toml")
        samples = folder / run / "samples.jsonl"
        expected = [json.loads(line) for line in samples.read_text().splitlines()] if samples.exists() else []
        shown = sorted(step for tag, points in series.items() if tag.startswith("samples/") for step, _ in points)
        if shown != [sample["step"] for sample in expected]:
            wrong.append(f"{run}: samples of steps {shown}, and samples.jsonl differs")
        print(f"{run}: {len(scalars[run])} metrics, the settings, {len(shown)} samples")
    backend = backend_context.Context(type("TBContext", (), {"data_provider": data})())
    experiment = backend.experiment_from_metadata(
        context,
        "",
        include_metrics=True,
        hparams_run_to_tag_to_content=backend.hparams_metadata(context, ""),
        data_provider_hparams=[],
    )
    print(f"HPARAMS: {len(experiment.hparam_infos)} hyperparameters, {len(experiment.metric_infos)} metrics")
    statuses = [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_RUNNING, api_pb2.STATUS_UNKNOWN]
    request = api_pb2.ListSessionGroupsRequest(
        slice_size=1000, include_metrics=True, aggregation_type=api_pb2.AGGREGATION_AVG, allowed_statuses=statuses
    )
    for info in experiment.hparam_infos:
        request.col_params.add(hparam=info.name)
    seen = set()
    for group in list_session_groups.Handler(context, backend, "", request).run().session_groups:
        for session in group.sessions:
            seen.add(session.name)
            read = {name: plain(value) for name, value in group.hparams.items()}
            expected = settings_of(folder / session.name / "config.toml")
            lists = {name for name, value in expected.items() if isinstance(value, list)}
            differ = [name for name in expected if name not in lists and read.get(name) != expected[name]]
            if differ or read.keys() != expected.keys():
                wrong.append(f"{session.name}: hyperparameters differ from config.toml: {differ}")
            if not session.metric_values:
                wrong.append(f"{session.name} has no metric in the HPARAMS tab")
            status = api_pb2.Status.Name(session.status)
            print(f"    {session.name}: {status}, {len(read)} hyperparameters, {len(session.metric_values)} metrics")
    wrong += [f"{run} is not in the HPARAMS tab" for run in multiplexer.Runs() if run not in seen]
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=pathlib.Path)
    folder = parser.parse_args().runs
    if folder is None:
        return references()
    wrong = check(folder)
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
