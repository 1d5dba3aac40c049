/* SPDX-License-Identifier: MIT */
#include <string.h>
#include "base/clock.h"
#include "transport/forecast.h"

#define THROTTLE_ALL 100

double forecast_dirty_pages(const struct forecast_input *in, double ns)
{
	double from_ns = 0, from_pages = 0, pages = 0;
	for (size_t i = 0; i < in->npoints; i++) {
		double to_ns = (double)in->curve[i].ns, to_pages = in->curve[i].pages;
		/* More time never means fewer pages; measured curves may say so. */
		if (to_pages < from_pages)
			to_pages = from_pages;
		double slope = to_ns > from_ns ? (to_pages - from_pages) / (to_ns - from_ns) : 0;
		pages = from_pages + slope * (ns - from_ns);
		if (ns <= to_ns)
			break;
		from_ns = to_ns;
		from_pages = to_pages;
	}
	double most = (double)in->held_pages;
	return pages < most ? pages : most;
}

/* Pages a second, through the source and the link. */
static double speed(const struct forecast_input *in)
{
	double link = in->link_bytes_per_second / in->wire_bytes_per_page;
	double source = in->source_pages_per_second;
	return source > 0 && source < link ? source : link;
}

static struct round_record play_round(
	const struct forecast_input *in, uint64_t number, double pages, uint64_t interval_ns)
{
	uint64_t sending_ns = (uint64_t)(pages / speed(in) * 1e9);
	return (struct round_record){
		.number = number,
		.pages = (uint64_t)pages,
		.wire_bytes = (uint64_t)(pages * in->wire_bytes_per_page),
		.collect_ns = in->collect_ns,
		.duration_ns = in->collect_ns + sending_ns + in->round_trip_ns,
		.interval_ns = interval_ns,
	};
}

struct forecast forecast_make(const struct forecast_input *in, unsigned throttle_percent)
{
	double runs = (double)(THROTTLE_ALL - throttle_percent) / THROTTLE_ALL;
	double pages = (double)in->held_pages;
	uint64_t interval_ns = 0;
	struct forecast f = {0};
	struct convergence convergence;
	struct convergence_verdict verdict = {0};
	struct convergence_limits limits = in->limits;
	/* What a send would do about it is another question. */
	limits.if_diverging = DIVERGING_FREEZE;
	convergence_init(&convergence, limits);
	while (verdict.action != CONVERGENCE_FREEZE) {
		struct round_record round = play_round(in, f.rounds++, pages, interval_ns);
		f.total_ns += round.duration_ns;
		f.wire_bytes += pages * in->wire_bytes_per_page;
		interval_ns = round.duration_ns;
		pages = forecast_dirty_pages(in, (double)interval_ns * runs);
		convergence_round(&convergence, &round, (uint64_t)pages, &verdict);
	}
	f.rounds++;
	f.last_pages = pages;
	f.downtime_ns = in->freeze_ns + (uint64_t)(pages / speed(in) * 1e9);
	f.total_ns += f.downtime_ns;
	f.wire_bytes += pages * in->wire_bytes_per_page;
	f.fits = f.downtime_ns <= in->limits.max_downtime_ns;
	return f;
}

/* More of it never makes a freeze longer. */
unsigned forecast_throttle(const struct forecast_input *in)
{
	unsigned from = 0, to = THROTTLE_ALL;
	while (from < to) {
		unsigned middle = (from + to) / 2;
		if (forecast_make(in, middle).fits)
			to = middle;
		else
			from = middle + 1;
	}
	return to;
}
