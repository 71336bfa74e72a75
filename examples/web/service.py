"""A web service that takes orders, publishes them, and books them itself. `uvicorn examples.web.service:web`.

Models of pydantic are the bodies of requests, the payloads of events and the values of the store alike. The
server is that of WINDSHIFT_ADDRESS; `windshift dev` starts one on the default address. Each process of the
web server is one more subscriber of the consumer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import pydantic
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

import windshift as ws

Number = Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Order(pydantic.BaseModel):
    """What a customer asks for."""

    number: Number
    cents: int


class Bill(pydantic.BaseModel):
    """What became of an order."""

    cents: int
    event: int


class NotPayable(Exception):
    """An order that nobody can pay."""


@asynccontextmanager
async def provide_bills(app: ws.App) -> AsyncIterator[None]:
    """Provide the store that the handler writes to."""
    app.provide(await app.client.stores.ensure("bills", Bill))
    yield


app = ws.App("shop", lifespan=provide_bills, codecs=[ws.codecs.Pydantic()])
orders = app.stream("orders", subjects=["orders.>"])
accounting = app.consumer(orders, "accounting", start=ws.START, on_error={NotPayable: ws.dead_letter})


@accounting.on
async def book(order: Order, event: ws.Event[Order], bills: ws.Store[Bill]) -> None:
    """Write the bill; a second delivery writes the same one."""
    if order.cents <= 0:
        raise NotPayable(f"{order.number} costs {order.cents} cents")
    await bills.set(order.number, Bill(cents=order.cents, event=event.id))


@asynccontextmanager
async def lifespan(web: FastAPI) -> AsyncIterator[None]:
    """Handle events while requests are answered; at the end, what is held is finished first."""
    async with app.running() as run:
        web.state.run = run
        yield


web = FastAPI(lifespan=lifespan)


@web.exception_handler(ws.Unavailable)
@web.exception_handler(ws.OutcomeUnknown)
async def unavailable(_: Request, error: Exception) -> Response:
    """Say that it is worth another try: its number keeps an order from being stored twice."""
    return JSONResponse({"detail": str(error)}, status_code=503, headers={"retry-after": "1"})


@web.post("/orders", status_code=202)
async def place(order: Order) -> dict[str, int]:
    """Store the order as an event; a request that is repeated gets the event of the first one."""
    receipt = await app.client.publish("orders.placed", order, key=order.number)
    return {"event": receipt.id}


@web.get("/bills/{number}")
async def bill(number: Number) -> Bill:
    """Return the bill of an order that was booked."""
    entry = await app.client.store("bills", Bill).get(number)
    if entry is None:
        raise HTTPException(404, "no such bill, or not yet")
    return entry.value


@web.get("/refused")
async def refused() -> list[str]:
    """Say which orders could not be booked, and why."""
    letters = app.client.dead_letters.list(stream="orders", consumer="accounting", type=Order)
    return [letter.reason async for letter in letters]


@web.get("/readyz")
async def ready() -> Response:
    """Tell a load balancer whether events are handled here."""
    run: ws.Running = web.state.run
    return Response(status_code=200 if run.ready else 503)
