/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "base/error.h"
#include "tracker/backend.h"
#include "tracker/backend_soft_dirty.h"
#include "tracker/backend_uffd.h"

const struct backend_ops *const backends[] = {
	&backend_uffd_wp,
	&backend_soft_dirty,
	NULL,
};

void watch_list_release(struct watch_list *l)
{
	free(l->v);
	*l = (struct watch_list){0};
}

int watch_list_add(struct watch_list *l, struct watch w)
{
	if (l->len == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		struct watch *v = reallocarray(l->v, cap, sizeof(*v));
		if (!v)
			return -ENOMEM;
		l->v = v;
		l->cap = cap;
	}
	l->v[l->len++] = w;
	return 0;
}

void backend_found_release(struct backend_found *f)
{
	pageset_release(&f->held);
	pageset_release(&f->written);
	pageset_release(&f->zero);
	pageset_release(&f->doubtful);
	pageset_release(&f->refused);
	pageset_release(&f->unreadable);
	pageset_release(&f->markers);
}

int backend_found_merge(struct backend_found *f, const struct backend_found *more)
{
	int r = pageset_merge(&f->held, &more->held);
	if (r == 0)
		r = pageset_merge(&f->written, &more->written);
	if (r == 0)
		r = pageset_merge(&f->zero, &more->zero);
	if (r == 0)
		r = pageset_merge(&f->doubtful, &more->doubtful);
	if (r == 0)
		r = pageset_merge(&f->refused, &more->refused);
	if (r == 0)
		r = pageset_merge(&f->unreadable, &more->unreadable);
	if (r == 0)
		r = pageset_merge(&f->markers, &more->markers);
	return r;
}

static int names(char *buf, size_t size)
{
	size_t at = 0;
	for (size_t i = 0; backends[i]; i++)
		at += (size_t)snprintf(
			buf + at, size - at, "%s%s", i ? ", " : "", backends[i]->name);
	return (int)at;
}

int backend_choose(const char *name, const struct backend_ops **ret, struct tide_error *err)
{
	bool any = !name || strcmp(name, "auto") == 0;
	struct tide_error why = {0};
	char text[sizeof(why.text)] = "";
	for (size_t i = 0; backends[i]; i++) {
		if (!any && strcmp(backends[i]->name, name) != 0)
			continue;
		if (backends[i]->probe(&why) == 0) {
			*ret = backends[i];
			return 0;
		}
		size_t at = strlen(text);
		snprintf(text + at, sizeof(text) - at, "%s%s: %.160s", at ? "; " : "",
			backends[i]->name, why.text);
		if (!any)
			break;
	}
	if (text[0])
		return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -ECANCELED,
			"this kernel or user cannot track writes (%s)", text);
	char list[128];
	names(list, sizeof(list));
	return tide_fail_kind(err, TIDE_ERROR_USAGE, -ECANCELED,
		"no backend is called '%s' (there is auto, %s)", name, list);
}
