from django.urls import path

from crm import views

urlpatterns = [
    path("withdrawals", views.request_withdrawal),
    path("withdrawals/<withdrawal_id>", views.show_withdrawal),
    path("webhooks/b2copy", views.receive_notice),
]
