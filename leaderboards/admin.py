from collections.abc import Callable, Iterable
from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.auth.base_user import AbstractBaseUser
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.http import content_disposition_header

from accounts.admin import ReadOnly
from accounts.credentials import from_operator
from accounts.errors import ApiError
from accounts.principals import Principal, valid_id
from leaderboards import closing, curating, exporting, standings
from leaderboards.models import Board, Entry, Submission, Window
from leaderboards.rights import WRITE

PAGE = 50
DEEDS: dict[str, Callable[[Board, str, str], None]] = {
    "hide": curating.hide,
    "unhide": curating.unhide,
    "remove": curating.remove,
}


class Operated(ReadOnly):
    """Rows on which operators act who may write leaderboards."""

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return _operator(request).has_scope(WRITE)

    def each(self, request: HttpRequest, found: Iterable[Any], deed: Callable[[Any], object], done: str) -> None:
        """Does it to each row, and says to how many; what cannot be done says why."""
        count = 0
        for row in found:
            try:
                deed(row)
            except ApiError as error:
                messages.error(request, f"{row}: {error.message}")
            else:
                count += 1
        if count:
            messages.success(request, f"{count} {done}.")


@admin.register(Board)
class BoardAdmin(Operated):
    """Made and changed by the API, where the rules of its settings are checked."""

    list_display = ["name", "order", "operator", "schedules", "submit", "read", "ranking", "created_at"]
    list_filter = ["order", "operator", "ranking"]
    search_fields = ["name__startswith"]
    ordering = ["name"]
    actions = ["reset"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Board]:
        return cast(QuerySet[Board], super().get_queryset(request).filter(deleted_at=None))

    @admin.action(description="Reset: close the main window, and open the next", permissions=["operate"])
    def reset(self, request: HttpRequest, found: QuerySet[Board]) -> None:
        self.each(request, found, lambda board: closing.reset(board, _operator(request)), "boards are reset")


@admin.register(Window)
class WindowAdmin(Operated):
    list_display = ["board", "label", "schedule", "entries", "starts_at", "ends_at", "closed_at", "archived_at", "look"]
    list_filter = [("closed_at", admin.EmptyFieldListFilter), "schedule"]
    list_select_related = ["board"]
    search_fields = ["board__name__startswith"]
    ordering = ["-pk"]

    @admin.display(description="Entries")
    def look(self, window: Window) -> str:
        return format_html('<a href="{}">Standings</a>', reverse("admin:leaderboards_entries", args=[window.pk]))

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("<int:pk>/entries/", view(self.entries), name="leaderboards_entries"),
            path("<int:pk>/entries.csv", view(self.export), name="leaderboards_export"),
            *super().get_urls(),
        ]

    def entries(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The window as it is ranked, a page at a time or around a name; and whoever is hidden."""
        window = self._window(request, pk)
        if request.method == "POST":
            return self._act(request, window)
        name, start = request.GET.get("name", "").strip(), _number(request.GET.get("start"))
        if valid_id(name):
            found = standings.around(window, name, PAGE, "ordinal")
        else:
            found = standings.page(window, start, start + PAGE, "ordinal")
        first = found.rows[0].rank if found.rows else start
        context = {
            **self.admin_site.each_context(request),
            "title": f"Standings of {window}",
            "opts": self.opts,
            "window": window,
            "rows": found.rows,
            "hidden": list(_hidden(window)[:PAGE]),
            "total": found.total,
            "name": name,
            "previous": max(first - PAGE, 0) if first else None,
            "next": first + PAGE if first + PAGE < found.total else None,
            "may_act": self.has_operate_permission(request) and window.closed_at is None,
        }
        return TemplateResponse(request, "leaderboards/entries.html", context)

    def _act(self, request: HttpRequest, window: Window) -> HttpResponse:
        deed = DEEDS.get(request.POST.get("action", ""))
        if deed is None or not self.has_operate_permission(request) or window.closed_at:
            messages.error(request, "Nothing is done: choose what, in a window that is open.")
        else:
            actor = str(_operator(request))
            names = filter(valid_id, request.POST.getlist("names")[: 2 * PAGE])
            done = "names: done, in every open window of the board"
            self.each(request, names, lambda name: deed(window.board, name, actor), done)
        return HttpResponseRedirect(request.get_full_path())

    def export(self, request: HttpRequest, pk: int) -> StreamingHttpResponse:
        window = self._window(request, pk)
        name = content_disposition_header(True, f"{window.board.name}-{window.label}.csv")
        return StreamingHttpResponse(
            exporting.lines(window),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": name or "attachment"},
        )

    def _window(self, request: HttpRequest, pk: int) -> Window:
        window = Window.objects.select_related("board").filter(pk=pk).first()
        if window is None or not self.has_view_permission(request, window):
            raise Http404
        return window


@admin.register(Submission)
class SubmissionAdmin(Operated):
    """What was done, by whom; those that are held wait here for a review."""

    list_display = ["id", "window", "owner", "operator", "given", "score", "state", "reason", "actor", "at"]
    list_filter = ["state", "operator"]
    list_select_related = ["window__board", "owner"]
    search_fields = ["owner__name__exact"]
    ordering = ["-id"]
    actions = ["approve", "reject"]

    @admin.action(description="Approve: let what is held count", permissions=["operate"])
    def approve(self, request: HttpRequest, found: QuerySet[Submission]) -> None:
        actor = _operator(request)
        self.each(request, found, lambda row: curating.approve(row.pk, actor), "submissions are approved")

    @admin.action(description="Reject what is held", permissions=["operate"])
    def reject(self, request: HttpRequest, found: QuerySet[Submission]) -> None:
        actor = _operator(request)
        self.each(request, found, lambda row: curating.reject(row.pk, actor), "submissions are rejected")


def _hidden(window: Window) -> QuerySet[Entry]:
    return Entry.objects.filter(window=window, hidden=True).select_related("owner").order_by("owner__name")


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 16 else 0


def _operator(request: HttpRequest) -> Principal:
    return from_operator(cast(AbstractBaseUser, request.user), "")
