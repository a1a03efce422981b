"""The GSM8K example as the README launches it, on bundled problems and a tiny model."""

from tests.e2e.servers.conftest import ROOT, ZERO3, free_port, metrics, run


def test_gsm8k_simple(serve, models, tmp_path):
    server = serve("tied")
    settings = {
        "model_name_or_path": models["tied"],
        "env_args": '{"data": "bundled"}',
        "output_dir": tmp_path / "run",
        "vllm_server_base_url": server.url,
        "vllm_group_port": free_port(),
        "max_steps": 2,
        "max_action_tokens": 8,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "logging_steps": 1,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    done = run([*ZERO3, str(ROOT / "metarlgym" / "examples" / "gsm8k_simple.py"), *words])
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "final" / "model.safetensors").exists()
    assert done.stdout.count("sampling/sampling_logp_difference/max") >= 2
    assert not metrics(tmp_path / "run")  # the example writes no metrics file: TRL prints to the terminal
