/*-------------------------------------------------------------------------
 *
 * latency.c
 *		How long things took, counted by classes of time.
 *
 * The classes are kept in tables: whoever changes them has to change what was
 * counted by the old ones.  A millisecond is what a receiver beside the server
 * takes, hours are what an outage takes.
 *
 * Nothing here allocates or throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "lib/latency.h"

/* Upper bounds in seconds, ascending; above the last but one there is no other. */
const double latency_bounds[LATENCY_BUCKETS] = {
	0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
	1, 2.5, 5, 10, 30, 60, 600, 3600, INFINITY
};

/* Count one that took so many microseconds; less than 0, by a clock that was set, is 0. */
void
latency_add(LatencyHistogram *histogram, int64 us)
{
	int			i = 0;

	us = Max(us, 0);
	while (us > latency_bounds[i] * 1000000.0)
		i++;
	histogram->counts[i]++;
	histogram->sum_us += us;
}
