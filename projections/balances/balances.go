// Package balances is the example read model: one row for each customer of domain/billing, with the balance and what
// it is made of in every currency.
package balances

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

// New returns the projection "balances". Its rows are keyed by the customer, and all amounts are in minor units:
//
//	{"customer":"cus_9","status":"open","balances":{"eur":{"balance":4200,"credit":500,"captured":4200,"refunded":500,
//	 "pending_refunds":0,"disputed":0}},"charges":1,"updated":"2026-09-18T05:43:03Z","version":3}
//
// status is "open" or "suspended", charges counts the captured ones, updated and version are the time and the stream
// version of the last event. The balance is credit + captured − refunded − disputed.
func New() projections.Projection { return balances{} }

type balances struct{}

func (balances) Name() string { return "balances" }
func (balances) Version() int { return 1 }

// RowSchema is that of the row above.
func (balances) RowSchema() projections.Schema {
	text, amount := projections.Schema{Type: "string"}, projections.Schema{Type: "integer", Format: "int64"}
	return projections.Schema{Type: "object", Properties: map[string]projections.Schema{
		"customer": text,
		"status":   {Type: "string", Description: "open or suspended"},
		"balances": {Type: "object", Description: "by currency, in its minor unit", Values: &projections.Schema{Type: "object", Properties: map[string]projections.Schema{
			"balance": amount, "credit": amount, "captured": amount, "refunded": amount, "pending_refunds": amount, "disputed": amount,
		}}},
		"charges": {Type: "integer", Format: "int64", Description: "captured ones"},
		"updated": {Type: "string", Format: "date-time"},
		"version": {Type: "integer", Format: "int64", Description: "of the stream"},
	}, Example: json.RawMessage(`{"customer":"cus_9","status":"open","balances":{"eur":{"balance":4200,"credit":500,"captured":4200,"refunded":500,` +
		`"pending_refunds":0,"disputed":0}},"charges":1,"updated":"2026-09-18T05:43:03Z","version":3}`)}
}

// StreamOf is the customer's stream.
func (balances) StreamOf(key string) (domain.Stream, bool) {
	return domain.Stream("billing/" + key), true
}

// Apply depends on nothing but the customer's own stream, so that every row is right whatever order partitions come in.
func (balances) Apply(tx *eventstore.Tx, e domain.Event) error {
	if !strings.HasPrefix(e.Type, "billing.") {
		return nil
	}
	customer, ok := strings.CutPrefix(string(e.Stream), "billing/")
	if !ok {
		return nil // a source that happens to be called billing
	}
	row, err := fold(tx.Get(customer), customer, e)
	if err != nil || row == nil {
		return err
	}
	return tx.Put(customer, row)
}

// fold returns the customer's row after e, or nil when e doesn't concern it. old is nil before the first event.
func fold(old []byte, customer string, e domain.Event) ([]byte, error) {
	var change func(*row, fact)
	switch e.Type {
	case "billing.credit.granted":
		change = func(r *row, f fact) { r.in(f.Currency).credit += f.Amount }
	case "billing.charge.captured":
		change = func(r *row, f fact) {
			r.in(f.Currency).captured += f.Amount
			if f.Captured == f.Amount { // not a further part of a charge counted before
				r.charges++
			}
		}
	case "billing.refund.requested":
		change = func(r *row, f fact) { r.in(f.Currency).pending += f.Amount }
	case "billing.refund.completed":
		change = func(r *row, f fact) {
			c := r.in(f.Currency)
			c.refunded += f.Amount
			c.pending -= f.Released
		}
	case "billing.charge.disputed":
		change = func(r *row, f fact) { r.in(f.Currency).disputed += f.Amount }
	case "billing.dispute.closed":
		change = func(r *row, f fact) { r.in(f.Currency).disputed -= f.Returned }
	case "billing.account.suspended":
		change = func(r *row, _ fact) { r.suspended = true }
	case "billing.account.reopened":
		change = func(r *row, _ fact) { r.suspended = false }
	default:
		return nil, nil
	}
	f, err := readFact(e.Data)
	if err != nil {
		return nil, &domain.Error{Class: domain.Corrupt, Message: fmt.Sprintf("event %s is not a %s", e.ID, e.Type), Err: err}
	}
	r, err := readRow(old, customer)
	if err != nil {
		return nil, err
	}
	change(&r, f)
	return r.appendTo(make([]byte, 0, len(old)+128), customer, e), nil
}
