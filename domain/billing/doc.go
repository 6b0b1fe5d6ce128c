// Package billing is the example business: what customers have paid, got back and have standing with us, in every
// currency. Replace it with yours; it imports nothing but domain and the standard library.
//
// One stream per customer, "billing/‹customer›", holds everything that moves the customer's balance:
//
//	balance = captured charges + granted credit − completed refunds − disputed amounts
//
// An account needs no opening: it is open from its first event. Some facts are ours to decide (GrantCredit,
// RequestRefund, SuspendAccount, ReopenAccount). The others are Stripe's, and FromStripe turns its webhooks into
// commands that record them. What Stripe says happened, happened: these are never refused because of the account's
// state. Stripe promises neither order nor single delivery, so each carries totals rather than steps, and a total
// that is known already changes nothing.
//
// Stripe's disputes name a charge but no customer. The streams "charge/‹charge›" remember whose a charge is; see
// the policy Disputes.
package billing
