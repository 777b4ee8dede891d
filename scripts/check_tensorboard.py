#!/usr/bin/env python3
"""Check the event files of runs with TensorBoard itself.

    python scripts/check_tensorboard.py RUNS     what TensorBoard reads in the runs below the folder RUNS
    python scripts/check_tensorboard.py          the reference bytes in the tests of crates/train/src/events.rs

Needs the package tensorboard; the recorded bytes are those of 2.21.0. With RUNS, it fails unless every run has scalars,
texts and hyperparameters, and the HPARAMS tab lists each run with its settings and at least one metric.
"""
import argparse
import pathlib
import sys

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


def check(folder):
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    data = data_provider.MultiplexerDataProvider(multiplexer, str(folder))
    context, wrong = RequestContext(), []
    sampling = provider.RunTagFilter()
    texts = data.read_tensors(context, experiment_id="", plugin_name="text", downsample=1000, run_tag_filter=sampling)
    scalars = data.list_scalars(context, experiment_id="", plugin_name="scalars")
    for run in sorted(multiplexer.Runs()):
        tags = {tag: [str(datum.numpy.item().decode()) for datum in series] for tag, series in texts.get(run, {}).items()}
        print(f"{run}: {len(scalars.get(run, {}))} scalars, texts " + ", ".join(f"{t} × {len(x)}" for t, x in sorted(tags.items())))
        for tag, series in sorted(tags.items()):
            print(f"    {tag}: {series[-1].strip().splitlines()[:2]}")
        if "config" not in tags or not scalars.get(run):
            wrong.append(f"{run} lacks its settings or its scalars")
    backend = backend_context.Context(type("TBContext", (), {"data_provider": data})())
    hparams_metadata = backend.hparams_metadata(context, "")
    experiment = backend.experiment_from_metadata(
        context, "", include_metrics=True, hparams_run_to_tag_to_content=hparams_metadata,
        data_provider_hparams=[],
    )
    print(f"hyperparameters: {len(experiment.hparam_infos)}, metrics: {len(experiment.metric_infos)}")
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=1000, include_metrics=True, aggregation_type=api_pb2.AGGREGATION_AVG,
        allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_RUNNING, api_pb2.STATUS_UNKNOWN],
    )
    for info in experiment.hparam_infos:
        request.col_params.add(hparam=info.name)
    groups = list_session_groups.Handler(context, backend, "", request).run().session_groups
    seen = set()
    for group in groups:
        for session in group.sessions:
            settings = {name: value for name, value in group.hparams.items()}
            seen.add(session.name)
            print(f"    {session.name}: status {api_pb2.Status.Name(session.status)}, {len(settings)} settings, "
                  f"{len(session.metric_values)} metrics, train.lr = {settings['train.lr'].number_value}")
            if not session.metric_values:
                wrong.append(f"{session.name} has no metric")
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
