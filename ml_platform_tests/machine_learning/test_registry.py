import contextlib
import os
import sqlite3
import subprocess
import sys
import uuid
from datetime import date
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from ml_platform.machine_learning import model_files, model_plots, tracking
from ml_platform.machine_learning.binary import probabilities
from ml_platform.machine_learning.model_card import DataUsed, requirements
from ml_platform.machine_learning.model_files import RegistryError
from ml_platform.machine_learning.registry import Registry
from ml_platform.machine_learning.training import train
from ml_platform_tests.e2e.test_no_secret_shown import mlflow_server
from ml_platform_tests.machine_learning.test_training import FLIGHTS, contract, labelled_rows

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

AS_OF = date(2013, 2, 1)
DATA = DataUsed("0", date(2013, 1, 1), date(2013, 1, 31), 1200, 1300, "/tables/flights/mrds")
HOLDOUT = labelled_rows(aircraft=30, days=10, seed=9)


class Untrusted:
    """Stands for any class that is neither scikit-learn's nor numpy's."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="module")
def registry(folder):
    found = Registry(f"sqlite:///{folder}/mlflow.db")
    found.tracking.prepare(FLIGHTS.name)
    return found


@pytest.fixture(scope="module")
def client(registry):
    import mlflow

    # Without it the client would ask the registry that another test has set for the whole process.
    return mlflow.MlflowClient(registry.tracking.uri, registry.tracking.uri)


@pytest.fixture(scope="module")
def trained():
    return train(FLIGHTS, labelled_rows())


@pytest.fixture(scope="module")
def logged(registry, trained):
    """One model, logged with all there is to log."""
    return log(registry, trained, fingerprint="the fingerprint")


def log(registry, trained, product=FLIGHTS, **changes):
    arguments = {
        "as_of": AS_OF,
        "fingerprint": uuid.uuid4().hex,
        "holdout": HOLDOUT,
        "data": DATA,
        "tags": {"partition": "2013-02", "dagster_run_id": "run-1", "code_version": "1"},
    }
    return registry.log(product, trained, **arguments | changes)


def artifacts(client, model):
    return [path for place in places(client, model) for path in place.rglob("*") if path.is_file()]


def places(client, model):
    """Where a run and its model have their files."""
    run = client.get_run(model.run_id)
    place = client.get_model_version_download_uri(FLIGHTS.name, model.version)
    return [Path(uri.removeprefix("file://")) for uri in (run.info.artifact_uri, place)]


# -- what is logged --------------------------------------------------------------------------------


def test_the_holdouts_metrics_are_logged(client, trained, logged):
    found = client.get_run(logged.run_id).data.metrics
    label = HOLDOUT["late"]
    probability = probabilities(trained.pipeline, FLIGHTS, HOLDOUT)
    assert found["holdout_f1"] == pytest.approx(f1_score(label, probability >= trained.threshold))
    assert found["holdout_roc_auc"] == pytest.approx(roc_auc_score(label, probability))
    assert found["holdout_average_precision"] == pytest.approx(average_precision_score(label, probability))
    assert found["holdout_brier_score"] == pytest.approx(np.mean((probability - label) ** 2))
    assert found["training_rows"] == 1200
    assert {"holdout_precision", "holdout_recall", "holdout_log_loss"} <= found.keys()


def test_the_contracts_metric_is_logged_whatever_it_is(registry, client, trained):
    model = log(registry, trained, contract(metric="balanced_accuracy"))
    assert "holdout_balanced_accuracy" in client.get_run(model.run_id).data.metrics


def test_parameters_and_tags_are_logged(client, trained, logged):
    run = client.get_run(logged.run_id).data
    assert run.params["estimator"] == "sklearn.linear_model.LogisticRegression"
    assert run.params["estimator.max_iter"] == "200"
    assert run.params["numeric_features"] == "dep_delay, hour, distance"
    assert run.params["decision_threshold"] == str(trained.threshold)
    version = client.get_model_version(FLIGHTS.name, logged.version)
    assert version.tags == {
        "product": "flights",
        "partition": "2013-02",
        "as_of": "2013-02-01",
        "trained_through": "2013-01-20",
        "fingerprint": "the fingerprint",
        "threshold": str(trained.threshold),
        "libraries": " ".join(requirements(FLIGHTS)),
        "dagster_run_id": "run-1",
        "code_version": "1",
    }
    assert version.run_id == logged.run_id
    assert run.tags["as_of"] == "2013-02-01"


def test_dagster_mlflow_does_not_take_a_models_run_for_its_own(client, logged):
    # It resumes the newest run of the experiment with the tag `dagster_run_id`.
    experiment = client.get_experiment_by_name(FLIGHTS.name).experiment_id
    assert not client.search_runs([experiment], "tags.dagster_run_id = 'run-1'")
    assert client.get_run(logged.run_id).data.tags["dagster.run_id"] == "run-1"


def test_the_data_is_a_dataset_input_with_version_and_days(client, logged):
    (found,) = client.get_run(logged.run_id).inputs.dataset_inputs
    assert found.dataset.name == "flights/mrds"
    assert found.dataset.source == '{"path": "/tables/flights/mrds", "delta_table_version": "0"}'
    tags = {tag.key: tag.value for tag in found.tags}
    assert (tags["first_day"], tags["last_day"]) == ("2013-01-01", "2013-01-31")
    assert (tags["rows"], tags["rows_available"]) == ("1200", "1300")


def test_plots_are_logged_and_nothing_is_pickled(client, logged):
    files = {path.name for path in artifacts(client, logged)}
    plots = {"confusion_matrix.png", "calibration.png", "precision_recall.png", "coefficients.png"}
    assert plots | {"model.skops", "input_example.json"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".joblib"))]


def test_requirements_are_pinned(client, logged):
    (file,) = (path for path in artifacts(client, logged) if path.name == "requirements.txt")
    lines = file.read_text().split()
    assert {line.partition("==")[0] for line in lines} >= {"scikit-learn", "skops", "numpy", "pandas"}
    assert all("==" in line for line in lines)


def test_artifacts_lie_beside_the_store(folder, client, logged):
    assert all(place.is_relative_to(folder / "artifacts" / "flights") for place in places(client, logged))


def test_the_models_own_prediction_is_the_probability(registry, trained, logged):
    import mlflow

    model = mlflow.pyfunc.load_model(logged.model_uri)
    example = trained.example.assign(carrier=None, dep_delay=np.nan)
    scored = np.asarray(model.predict(example))
    np.testing.assert_array_equal(scored[:, 1], probabilities(trained.pipeline, FLIGHTS, example))
    assert [column.required for column in model.metadata.signature.inputs.inputs] == [False] * 5
    assert model.metadata.signature.outputs.inputs[0].shape == (-1, 2)


def test_a_model_without_a_holdout_is_logged_without_its_metrics(registry, client, trained):
    model = log(registry, trained, holdout=None)
    found = client.get_run(model.run_id).data.metrics
    assert found.keys() == {"training_rows", "training_positives"}


def test_a_holdout_of_one_class_has_the_metrics_that_exist(registry, client, trained):
    model = log(registry, trained, holdout=HOLDOUT.assign(late=0))
    found = client.get_run(model.run_id).data.metrics
    assert "holdout_log_loss" in found
    assert "holdout_f1" not in found


def test_the_holdout_does_not_touch_the_threshold(registry, trained):
    without = log(registry, trained, holdout=None)
    with_inverted = log(registry, trained, holdout=HOLDOUT.assign(late=1 - HOLDOUT["late"]))
    assert without.threshold == with_inverted.threshold == trained.threshold


# -- runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("active", [True, False])
def test_a_model_is_a_finished_run_nested_under_the_parent(registry, client, trained, active):
    """The parent may be this process's active run, or another process's."""
    import mlflow

    mlflow.set_tracking_uri(registry.tracking.uri)
    experiment = client.get_experiment_by_name(FLIGHTS.name).experiment_id
    parent = client.create_run(experiment).info.run_id
    if active:
        mlflow.set_experiment(FLIGHTS.name)
        mlflow.start_run(parent)
    try:
        model = log(registry, trained, parent_run_id=parent)
        assert (mlflow.active_run() is not None) == active
    finally:
        mlflow.end_run()
    run = client.get_run(model.run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.info.status == "FINISHED"


def test_a_run_that_raises_ends_failed_and_registers_nothing(registry, client, trained, monkeypatch):
    def broken(*_):
        raise RuntimeError("no plots today")

    monkeypatch.setattr(model_plots, "of_decisions", broken)
    with pytest.raises(RuntimeError, match="no plots today"):
        log(registry, trained, fingerprint="broken")
    assert registry.find(FLIGHTS, "broken") is None
    experiment = client.get_experiment_by_name(FLIGHTS.name).experiment_id
    (run,) = client.search_runs([experiment], "tags.fingerprint = 'broken'")
    assert run.info.status == "FAILED"


def test_a_link_opens_the_run(registry, client, logged):
    experiment = client.get_run(logged.run_id).info.experiment_id
    expected = (
        f"http://127.0.0.1:5000/#/experiments/{experiment}/runs/{logged.run_id}?workflowType=machine_learning"
    )
    assert registry.tracking.run_url("http://127.0.0.1:5000/", logged.run_id) == expected
    assert registry.tracking.run_url(None, logged.run_id) == expected


def test_a_link_to_a_run_on_databricks_opens_it_in_the_workspace(client, logged, monkeypatch):
    monkeypatch.setenv("DATABRICKS_HOST", "https://workspace.example.com/")
    monkeypatch.setenv("DATABRICKS_TOKEN", "t")
    monkeypatch.setattr(tracking, "prepared_client", lambda *_: client)
    experiment = client.get_run(logged.run_id).info.experiment_id
    expected = f"https://workspace.example.com/ml/experiments/{experiment}/runs/{logged.run_id}"
    assert Registry("databricks").tracking.run_url(None, logged.run_id) == expected


def test_an_experiment_opens_as_one_of_models(registry, client):
    """MLflow shows traces of language models first, unless the experiment says what it is of."""
    assert client.get_experiment_by_name(FLIGHTS.name).tags["mlflow.experimentKind"] == (
        "custom_model_development"
    )


def test_an_experiment_that_somebody_else_has_made_opens_so_as_well(registry, client):
    made = {name: client.create_experiment(name) for name in ("untagged", "chosen")}
    client.set_experiment_tag(made["chosen"], "mlflow.experimentKind", "genai_development")
    for name in made:
        registry.tracking.prepare(name)
    kinds = [client.get_experiment(id_).tags["mlflow.experimentKind"] for id_ in made.values()]
    assert kinds == ["custom_model_development", "genai_development"]


def test_versions_are_described_by_what_was_decided(registry, client, trained):
    first, second = (log(registry, trained).version for _ in range(2))
    said = {first: "not promoted: f1 0.7", second: "promoted: f1 0.8", "99999": "it isn't there"}
    registry.describe(FLIGHTS, said)

    def described(version):
        return client.get_model_version(FLIGHTS.name, version).description

    assert (described(first), described(second)) == ("not promoted: f1 0.7", "promoted: f1 0.8")
    registry.describe(FLIGHTS, {second: "rolled back: f1 0.8"})
    assert (described(first), described(second)) == ("not promoted: f1 0.7", "rolled back: f1 0.8")


def test_what_a_person_has_written_of_a_version_stays(registry, client, trained):
    before, after = log(registry, trained).version, log(registry, trained).version
    client.update_model_version(FLIGHTS.name, before, "do not use")
    registry.describe(FLIGHTS, {before: "promoted", after: "promoted"})
    client.update_model_version(FLIGHTS.name, after, "the one of the campaign")
    registry.describe(FLIGHTS, {before: "rolled back", after: "rolled back"})
    descriptions = [client.get_model_version(FLIGHTS.name, one).description for one in (before, after)]
    assert descriptions == ["do not use", "the one of the campaign"]


def test_a_description_whose_writing_was_cut_off_is_still_the_platforms(registry, client, trained):
    version = log(registry, trained).version
    client.update_model_version(FLIGHTS.name, version, "promoted")  # and then the process was killed
    registry.describe(FLIGHTS, {version: "promoted"})
    registry.describe(FLIGHTS, {version: "rolled back"})
    assert client.get_model_version(FLIGHTS.name, version).description == "rolled back"


# -- finding and loading ---------------------------------------------------------------------------


def test_a_model_is_found_by_its_fingerprint(registry, logged):
    assert registry.find(FLIGHTS, "the fingerprint") == logged
    assert registry.find(FLIGHTS, "another") is None


def test_nothing_is_found_of_a_product_without_models(registry):
    assert registry.find(FLIGHTS.model_copy(update={"name": "unheard_of"}), "the fingerprint") is None


def test_of_equal_fingerprints_the_newest_version_is_found(registry, trained):
    versions = [log(registry, trained, fingerprint="twice").version for _ in range(2)]
    found = registry.find(FLIGHTS, "twice")
    assert found is not None
    assert found.version == max(versions, key=int)


def test_a_loaded_model_scores_as_the_trained_one(registry, trained, logged):
    loaded = registry.load(FLIGHTS, logged.version, "the fingerprint")
    assert (loaded.threshold, loaded.fingerprint) == (trained.threshold, "the fingerprint")
    np.testing.assert_array_equal(
        probabilities(loaded.pipeline, FLIGHTS, HOLDOUT), probabilities(trained.pipeline, FLIGHTS, HOLDOUT)
    )
    assert registry.load(FLIGHTS, logged.version, "the fingerprint").pipeline is loaded.pipeline


def test_a_model_in_a_local_folder_is_loaded_without_mlflow(registry, logged):
    """Which takes seconds to import, in each morning's run."""
    code = (
        "import sys; from ml_platform.machine_learning.registry import Registry; "
        "from ml_platform_tests.machine_learning.test_training import FLIGHTS; "
        f"found = Registry({registry.tracking.uri!r}).load(FLIGHTS, {logged.version!r}, 'the fingerprint'); "
        "print(found.pipeline.steps[-1][1], [name for name in sys.modules if name.startswith('mlflow')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("LogisticRegression(")
    assert done.stdout.rstrip().endswith(" []")


def test_a_version_that_was_deleted_is_not_loaded_although_its_file_is_there(registry, client, trained):
    model = log(registry, trained, fingerprint="deleted")
    assert registry.absent(FLIGHTS, {model.version: "deleted"}) == {}
    client.delete_model_version(FLIGHTS.name, model.version)
    assert registry.absent(FLIGHTS, {model.version: "deleted"}).keys() == {model.version}
    with pytest.raises(RegistryError, match=f"the registry has no version {model.version} of flights"):
        registry.load(FLIGHTS, model.version, "deleted")


@pytest.mark.parametrize(
    ("class_", "params"),
    [
        ("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 5}),
        ("sklearn.ensemble.HistGradientBoostingClassifier", {"max_iter": 5}),
    ],
)
def test_trees_can_be_kept_as_well(registry, class_, params):
    product = contract(class_, params)
    rows = labelled_rows(aircraft=20, days=10)
    model = train(product, rows)
    loaded = registry.load(product, log(registry, model, product, fingerprint="trees").version, "trees")
    np.testing.assert_array_equal(
        probabilities(loaded.pipeline, product, rows), probabilities(model.pipeline, product, rows)
    )


def test_a_file_with_foreign_types_is_not_loaded(registry, client, trained):
    model = log(registry, trained)
    (file,) = (path for path in artifacts(client, model) if path.name == "model.skops")
    skops.io.dump([trained.pipeline, Untrusted()], file)
    with pytest.raises(RegistryError, match="Untrusted; accepted are only classes of scikit-learn"):
        registry.load(FLIGHTS, model.version, model.fingerprint)


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("sklearn.tree._tree.Tree", True),
        ("sklearn.utils._testing.check_output", False),  # a function, and subprocess's
        ("sklearn.no_such_module.Tree", False),
        ("sklearn.tree._tree.NoSuchClass", False),
        ("os.system", False),
        ("sklearnx.Model", False),
        ("numpy.log1p", True),
        ("scipy.special.expit", True),
        ("numpy.load", False),  # reads files
    ],
)
def test_only_scikit_learns_own_classes_are_trusted(name, accepted):
    assert model_files._is_accepted(name) == accepted


def test_all_that_skops_trusts_by_itself_is_trusted():
    theirs, ours = import_module("skops.io._trusted_types"), model_files._short_lists()
    listed = {name: set(found) for name, found in vars(theirs).items() if name.endswith("_TYPE_NAMES")}
    assert listed.keys() == {name for name in vars(ours) if name.endswith("_TYPE_NAMES")}
    for name, found in listed.items():
        own = set(getattr(ours, name))
        assert own <= found
        assert [one for one in found - own if not model_files._is_accepted(one)] == []


def test_a_version_from_elsewhere_is_named(registry, client, logged):
    source = client.get_model_version(FLIGHTS.name, logged.version).source
    stranger = client.create_model_version(FLIGHTS.name, source)
    with pytest.raises(RegistryError, match=f"version {stranger.version} of flights"):
        registry.load(FLIGHTS, str(stranger.version), "the fingerprint")


def swap_tags(registry, client, first, second):
    for model, other in ((first, second), (second, first)):
        client.set_model_version_tag(registry.name(FLIGHTS), model.version, "fingerprint", other.fingerprint)


def in_a_file(folder):
    return contextlib.nullcontext(Registry(f"sqlite:///{folder}/mlflow.db"))


def in_a_catalog(folder):
    """Asked as Unity Catalog is: versions by their runs, files by the model's name."""
    return contextlib.nullcontext(Registry(f"sqlite:///{folder}/mlflow.db", schema="main.models"))


@contextlib.contextmanager
def on_a_server(folder):
    with mlflow_server(folder / "server") as port:
        yield Registry(f"http://127.0.0.1:{port}")


KINDS = [in_a_file, in_a_catalog, pytest.param(on_a_server, marks=pytest.mark.slow)]


@pytest.mark.parametrize("kind", KINDS)
def test_another_model_under_a_versions_number_is_refused(tmp_path, trained, kind):
    import mlflow

    with kind(tmp_path) as registry:
        registry.tracking.prepare(FLIGHTS.name)
        client = mlflow.MlflowClient(registry.tracking.uri, registry.tracking.uri)
        first, second = (log(registry, trained, fingerprint=one * 32) for one in "ab")
        assert registry.load(FLIGHTS, first.version, "a" * 32).fingerprint == "a" * 32
        swap_tags(registry, client, first, second)
        with pytest.raises(
            RegistryError,
            match=r"version 1 of \S*flights is another model: .* a{32}, .* b{32} .*doctor flights",
        ):
            registry.load(FLIGHTS, first.version, "a" * 32)
        # Neither is the model of the other, whatever its tags say.
        assert registry.find(FLIGHTS, "a" * 32) is None
        swap_tags(registry, client, second, first)
        with pytest.raises(RegistryError, match=r"no version 3 of \S*flights, .* a{32}: .*doctor flights"):
            registry.load(FLIGHTS, "3", "a" * 32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_registry_that_was_made_anew_gives_the_new_model(tmp_path, trained, kind):
    import mlflow

    product = contract("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 2})
    other = train(product, labelled_rows(aircraft=20, days=10))
    with kind(tmp_path) as registry:
        registry.tracking.prepare(FLIGHTS.name)
        before = log(registry, trained, fingerprint="before")
        registry.load(FLIGHTS, before.version, "before")
        client = mlflow.MlflowClient(registry.tracking.uri, registry.tracking.uri)
        client.delete_registered_model(registry.name(FLIGHTS))
        after = log(registry, other, product, fingerprint="after")
        assert after.version == before.version == "1"
        with pytest.raises(RegistryError, match="is another model"):
            registry.load(FLIGHTS, "1", "before")
        forest = registry.load(FLIGHTS, "1", "after").pipeline.named_steps["estimator"]
        assert type(forest).__name__ == "RandomForestClassifier"


# -- the champion ----------------------------------------------------------------------------------


def test_the_alias_moves_and_goes(registry, client, trained):
    first, second = log(registry, trained), log(registry, trained)
    for model in (first, second):
        registry.set_champion(FLIGHTS, model.version)
        assert str(client.get_model_version_by_alias("flights", "champion").version) == model.version
    registry.set_champion(FLIGHTS, None)
    registry.set_champion(FLIGHTS, None)
    assert "champion" not in client.get_registered_model("flights").aliases


def test_a_product_without_models_has_no_champion_to_take_away(registry):
    registry.set_champion(FLIGHTS.model_copy(update={"name": "unheard_of"}), None)


# -- the store -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_can_prepare_a_new_store_at_once(tmp_path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    code = (
        "import sys; from ml_platform.machine_learning.registry import Registry; "
        "Registry(sys.argv[1]).tracking.prepare('flights')"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, uri], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    with sqlite3.connect(tmp_path / "new" / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        names = connection.execute("SELECT name FROM experiments").fetchall()
    assert sorted(names) == [("Default",), ("flights",)]


def test_runs_that_a_killed_process_left_open_are_ended(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    registry = Registry(uri)
    registry.tracking.prepare("shop")
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("shop")
    assert experiment is not None
    ids = {
        name: client.create_run(experiment.experiment_id, tags=tags).info.run_id
        for name, tags in {
            "parent of a dead run": {"dagster_run_id": "dead"},
            "model of a dead run": {"dagster.run_id": "dead"},
            "parent of a live run": {"dagster_run_id": "live"},
            "made by hand": {},
        }.items()
    }
    registry.tracking.end_orphans("shop", lambda run_id: run_id == "dead")
    statuses = {name: client.get_run(run_id).info.status for name, run_id in ids.items()}
    assert statuses == {
        "parent of a dead run": "KILLED",
        "model of a dead run": "KILLED",
        "parent of a live run": "RUNNING",
        "made by hand": "RUNNING",
    }


@pytest.mark.parametrize(
    ("made_with", "said"),
    [
        ([], None),
        ([f"scikit-learn=={version('scikit-learn')}", "numpy==2.0.0", "mlflow==1.0", "pandas==0.1"], None),
        (["scikit-learn==0.24.2"], "it was made with scikit-learn 0.24.2, and "),
        (["numpy==1.26.4"], "it was made with numpy 1.26.4, and 2."),
        (["skops==99.0", "scikit-learn==99.0"], "it was made with scikit-learn 99.0, and "),
        (["scikit-learn"], None),
    ],
)
def test_another_major_version_of_what_a_file_holds_makes_a_model_unreadable(made_with, said):
    found = model_files.incompatible(made_with)
    assert found is None if said is None else found.startswith(said)


def test_a_library_that_is_missing_is_to_be_installed_and_no_reason_to_train_again(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(model_files, "installed_version", missing)
    assert model_files.incompatible(["xgboost-cpu==3.1.0", "catboost==1.0"]) is None
    assert model_files.missing(["skops==1.0", "xgboost-cpu==3.1.0"]) == (
        "it was made with xgboost-cpu 3.1.0, which isn't installed here: install the extra xgboost "
        "(pip install 'ml-platform[xgboost]')"
    )


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("no_such_library.Trees", model_files.MissingLibraryError, "needs no_such_library, which isn't "),
        ("sklearn.linear_model._gone.Trees", model_files.RegistryError, "accepted are only classes"),
        ("subprocess.Popen", model_files.RegistryError, "accepted are only classes"),
    ],
)
def test_types_of_what_is_not_installed_say_what_to_install(kind, error, said):
    with pytest.raises(model_files.RegistryError, match=said) as found:
        model_files.trusted([kind], "a file")
    assert type(found.value) is error


def test_a_file_of_a_library_that_is_gone_says_what_to_install(monkeypatch, tmp_path, trained):
    skops = model_files.skops_io()
    skops.dump(trained.pipeline, tmp_path / "model.skops")

    def gone(*_, **__):
        raise ModuleNotFoundError("No module named 'lightgbm.basic'", name="lightgbm.basic")

    monkeypatch.setattr(skops, "load", gone)
    monkeypatch.setattr(model_files, "find_spec", lambda name: None)
    with pytest.raises(model_files.MissingLibraryError, match="the extra lightgbm"):
        model_files.read_pipeline(str(tmp_path / "model.skops"), "a file")


def test_a_model_of_one_distribution_of_xgboost_is_read_with_the_other(monkeypatch):
    def installed(name):
        if name == "xgboost":
            return "3.2.0"
        raise PackageNotFoundError(name)

    monkeypatch.setattr(model_files, "installed_version", installed)
    assert model_files.incompatible(["xgboost-cpu==3.1.0"]) is None
