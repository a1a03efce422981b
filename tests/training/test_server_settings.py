"""Settings of runs with servers: mistakes are told in one line, before anything is loaded or written."""

import pytest

from metarlgym.datatypes import ConfigError
from metarlgym.train import main
from tests.tiny import make_config

ARGUMENTS = ["--env_id", "Doors-v0", "--use_vllm", "true", "--trials_per_task", "4"]
ARGUMENTS += ["--per_device_train_batch_size", "8", "--max_steps", "1", "--model_name_or_path", "runs/tiny"]


@pytest.mark.parametrize(
    ("settings", "marks"),
    [
        (["--vllm_server_base_url", "127.0.0.1:8000"], ["has no scheme", "http://127.0.0.1:8000"]),
        (["--num_generations", "3"], ["num_generations=3", "trials_per_task=4", "leave num_generations out"]),
        (["--per_device_train_batch_size", "6"], ["per_device_train_batch_size=6", "multiple of 4"]),
        (["--vllm_mode", "colocate"], ["vllm_mode='colocate'", "needs a GPU"]),
        (["--top_p", "0.9"], ["top_p=0.9", "bias the gradient"]),
        (["--server_request_timeout", "0"], ["server_request_timeout=0", "must be above 0"]),
        (["--model_name_or_path", "/nowhere/tiny"], ["/nowhere/tiny", "no such folder"]),
    ],
    ids=["no scheme", "num_generations", "batch size", "colocate", "top_p", "timeout", "model"],
)
def test_one_line(settings, marks, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*ARGUMENTS, *settings, "--output_dir", str(folder)]) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: ") and "\n" not in told
    for mark in marks:
        assert mark in told
    assert not folder.exists()


def test_a_model_to_serve_is_needed(tmp_path, capsys):
    arguments = ARGUMENTS[: ARGUMENTS.index("--model_name_or_path")]
    assert main([*arguments, "--output_dir", str(tmp_path / "run")]) == 2
    assert "use_vllm=true needs model_name_or_path" in capsys.readouterr().err


def test_several_servers(tmp_path):
    args = make_config(tmp_path, use_vllm=True, vllm_server_base_url="http://a:1/, http://b:2")
    assert args.server_urls == ["http://a:1", "http://b:2"]
    assert make_config(tmp_path, use_vllm=True).server_urls == ["http://127.0.0.1:8000"]
    assert make_config(tmp_path, vllm_server_base_url="http://a:1").server_urls == []


def test_sequence_level_correction_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="token_truncate"):
        make_config(tmp_path, use_vllm=True, vllm_importance_sampling_mode="sequence_mask")


def test_truncated_sampling_needs_force_and_vllm(tmp_path):
    assert make_config(tmp_path, use_vllm=True, top_p=0.9, force_truncated_sampling=True).top_p == 0.9
    with pytest.raises(ConfigError, match="needs use_vllm"):
        make_config(tmp_path, top_p=0.9, force_truncated_sampling=True)
