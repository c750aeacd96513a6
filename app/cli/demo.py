"""`demo`: everything in one process, and a real workflow through the public API: HTTP, bearer token, WebSocket."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.text import Text

from app import clock
from app.cli.banner import Place, show_ways_in
from app.cli.client import Client
from app.cli.deployment import Prepared, for_embedded, issue_token, load_settings, with_local_origin
from app.cli.failures import CommandFailed
from app.cli.findings import show_audit, show_counters, show_record
from app.cli.run import TOKEN_SECONDS, Watch, ending, read_document, step_names, watch_to_end
from app.cli.serving import bind, port_of, url_of
from app.cli.stopping import StopSignals, run_until_stopped
from app.cli.up import local_server
from app.logs import configure_logs
from app.settings import Settings
