"""The operator's one-time login."""

from django.contrib.auth import login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from accounts.operators import redeem


@require_GET
@never_cache
def operator_login(request: HttpRequest, token: str) -> HttpResponse:
    """Signs in by a one-time link and goes to the admin; a link that is old or used says so."""
    user = redeem(token)
    if user is None:
        return render(request, "login_link_used.html", status=410)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return HttpResponseRedirect(reverse("admin:index"))
