/* sd_notify, without libsystemd: one datagram to $NOTIFY_SOCKET. */
#pragma once

/* "READY=1", "STOPPING=1", "STATUS=..."; nothing happens when nobody wants to know. */
void notify_systemd(const char *text);
