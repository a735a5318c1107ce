/*-------------------------------------------------------------------------
 *
 * dapr_numbers.h
 *		What becomes of the numbers in a JSON payload behind daprd.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DAPR_NUMBERS_H
#define OUTBOX_DAPR_NUMBERS_H

extern bool dapr_numbers_are_finite(const char *json, Size len);
extern bool dapr_numbers_are_exact(const char *json, Size len);

#endif							/* OUTBOX_DAPR_NUMBERS_H */
