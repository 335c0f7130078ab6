"""The page `/docs`, which asks nothing of another site: Swagger UI out of a wheel, and a policy that allows nothing else."""

from http import HTTPStatus
from importlib.resources import files

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Undertone</title>
<link rel="icon" href="docs/favicon-32x32.png"><link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="page"></div><script src="docs/swagger-ui-bundle.js"></script><script src="docs/begin.js"></script></body>
</html>
"""
_BEGIN = """SwaggerUIBundle({url: "openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null})\n"""
_KIND_BY_FILE = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}


def docs_routes() -> APIRouter:
    """`/docs` and what it loads, to which `/` leads."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    def root() -> Response:
        return RedirectResponse("docs", HTTPStatus.SEE_OTHER)  # relative: whatever name it is reached under

    @routes.get("/docs")
    def page() -> Response:
        return Response(_PAGE, media_type="text/html", headers=_HEADERS)

    @routes.get("/docs/begin.js")
    def begin() -> Response:
        return Response(_BEGIN, media_type="text/javascript", headers=_HEADERS)

    for name, kind in _KIND_BY_FILE.items():
        _add_file(routes, name, kind)
    return routes


def _add_file(routes: APIRouter, name: str, kind: str) -> None:
    @routes.get(f"/docs/{name}")
    def file() -> Response:
        content = files("fastapi_swagger").joinpath("resources", name).read_bytes()
        return Response(content, media_type=kind, headers={**_HEADERS, "Cache-Control": "max-age=3600"})
