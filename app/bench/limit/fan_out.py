"""The limit of streaming: texts go to every WebSocket that is open, and nothing is looked up or kept."""

import asyncio
from time import perf_counter

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel


class Published(BaseModel):
    at: float


def make_app() -> FastAPI:
    """`POST /texts` sends them and tells when it began; `/stream` is where subscribers are."""
    subscribers: set[WebSocket] = set()
    app = FastAPI()

    @app.post("/texts")
    async def publish(texts: list[str]) -> Published:
        at = perf_counter()
        for subscriber in list(subscribers):
            for text in texts:
                await subscriber.send_text(text)
        return Published(at=at)

    @app.websocket("/stream")
    async def stream(websocket: WebSocket) -> None:
        await websocket.accept()
        subscribers.add(websocket)
        try:
            while True:
                await websocket.receive_text()
        except (WebSocketDisconnect, asyncio.CancelledError):
            subscribers.discard(websocket)

    return app
