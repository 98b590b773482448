"""A vLLM server whose weights a trainer replaces between its rollouts, through files that both see."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aipo_agents.backends.openai_server import OpenAIServer, proxy_of
from aipo_env.errors import ConfigurationError, ServiceError

if TYPE_CHECKING:
    from torch import Tensor

_ADAPTER = "aipo-policy"


class TrainableServer(OpenAIServer):
    """A vLLM server that takes weights: `VLLM_SERVER_DEV_MODE=1 vllm serve ... --logprobs-mode processed_logprobs`.

    For adapters it also needs `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1` and `--enable-lora`. Nobody else may use it meanwhile, and
    nobody else may reach it: in this mode it obeys everyone.

    Args:
        base_url: up to and including the version, for example "http://localhost:8000/v1".
        folder: where weights are written; the server reads them there.
        timeout: seconds for a request.

    Raises:
        ConfigurationError: when the server serves no model, or several.
        ServiceError: when it cannot be reached.
    """

    def __init__(self, base_url: str, folder: Path, *, timeout: float = 600.0) -> None:
        super().__init__(base_url, "the only one", timeout=timeout, logprobs_mode="processed", retries=2)
        self._root, self._folder = self.base_url.removesuffix("/v1"), folder
        found = self._call("GET", "/v1/models").get("data") or []
        served = [m for m in found if isinstance(m, dict) and "max_model_len" in m and not m.get("parent")]
        if len(served) != 1:
            raise ConfigurationError(
                f"{base_url} must be a vLLM server with one model, that which is trained; it serves {len(served)} such."
            )
        self.model = str(served[0]["id"])
        self.context_length = int(served[0]["max_model_len"])
        """Tokens that the server takes, prompt and continuation together."""

    def load_weights(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Replaces the weights.

        Args:
            named: as in a checkpoint of `transformers`, a tied output layer by its own name too.

        Raises:
            ServiceError: when the server fails, or keeps what it has computed with the old weights.
        """
        from safetensors.torch import save_file

        # One place, so that a run that was killed leaves no second copy; whoever runs the server may read it.
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "model.safetensors"
        try:
            # A file has no tensor twice.
            save_file({name: weight.detach().cpu().clone() for name, weight in named}, path)
            self._call(
                "POST",
                "/collective_rpc",
                {"method": "reload_weights", "kwargs": {"weights_path": str(self._folder.resolve())}},
            )
        finally:
            path.unlink(missing_ok=True)
        self._forget()

    def load_adapter(self, folder: Path) -> None:
        """Takes a LoRA adapter for all further requests, in place of the one before.

        Args:
            folder: as `peft` writes it.

        Raises:
            ServiceError: when the server fails, or keeps what it has computed with the old adapter.
        """
        adapter = {"lora_name": _ADAPTER, "lora_path": str(folder.resolve()), "load_inplace": True}
        self._call("POST", "/v1/load_lora_adapter", adapter)
        self.model = _ADAPTER
        self._forget()

    def check(self) -> None:
        """Does nothing where the server is well.

        Raises:
            ServiceError: when it is not.
        """
        self._call("GET", "/health")

    def _forget(self) -> None:
        # It says so in its answer alone.
        if not self._call("POST", "/reset_prefix_cache").get("success"):
            raise ServiceError(
                f"{self._root} kept what it had computed with old weights: /reset_prefix_cache failed. Does somebody "
                "else use it?",
                transient=False,
            )

    def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + path, data, method=method)
        request.add_header("Content-Type", "application/json")
        if key := self._key.value:
            request.add_header("Authorization", f"Bearer {key}")
        proxy = proxy_of(self.base_url)
        proxies = urllib.request.ProxyHandler({} if proxy is None else {"http": proxy, "https": proxy})
        opener = urllib.request.build_opener(proxies, _NoRedirects)
        try:
            with opener.open(request, timeout=self.timeout) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(500).decode(errors="replace").strip()
            dev = " It must be started with VLLM_SERVER_DEV_MODE=1." if error.code == 404 else ""
            raise ServiceError(
                self._key.hide(f"{self._root}{path} answered {error.code}: {said}.{dev}"), transient=False
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise ServiceError(f"{self._root} cannot be reached ({error}).", transient=False) from error
        try:
            return dict(json.loads(text))
        except ValueError:  # an answer in words
            return {}


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A key is for the address that was named."""

    def redirect_request(self, *asked: Any) -> None:
        return None
