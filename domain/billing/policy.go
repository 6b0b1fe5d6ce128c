package billing

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/penstock-io/penstock/domain"
)

// FromStripe says what Stripe's webhooks mean to an account (https://docs.stripe.com/api/events/types):
//
//   - charge.succeeded and charge.captured record what was captured. An authorisation alone moves nothing.
//   - charge.refunded records the refunded total.
//   - charge.dispute.created and .funds_withdrawn record a dispute, charge.dispute.closed its end, when the customer
//     stands in it: in an expanded charge, or in the dispute's metadata under "customer". Plain disputes carry
//     none; they are the work of Disputes. An inquiry (warning_…) is no dispute yet: no money was withdrawn.
//
// A charge without a customer asks for nothing. A body that isn't JSON of the expected shape is an error of class
// Invalid and parks the event; a charge of a customer without id or currency fails the command's own check instead.
var FromStripe = domain.Policy{
	Name: "billing/from-stripe",
	From: []string{
		"stripe.charge.succeeded",
		"stripe.charge.captured",
		"stripe.charge.refunded",
		"stripe.charge.dispute.created",
		"stripe.charge.dispute.funds_withdrawn",
		"stripe.charge.dispute.closed",
	},
	React: fromStripe,
}

func fromStripe(e domain.Event) ([]domain.Command, error) {
	switch e.Type {
	case "stripe.charge.succeeded", "stripe.charge.captured":
		c, err := readCharge(e)
		if err != nil || c.Customer.ID == "" || c.captured() == 0 {
			return nil, err
		}
		return []domain.Command{domain.Ask(RecordCharge{Customer: c.Customer.ID, Charge: c.ID, Captured: c.captured(),
			Currency: c.Currency})}, nil
	case "stripe.charge.refunded":
		c, err := readCharge(e)
		if err != nil || c.Customer.ID == "" || c.refunded() <= 0 {
			return nil, err
		}
		return []domain.Command{domain.Ask(RecordRefund{Customer: c.Customer.ID, Charge: c.ID, Captured: c.captured(),
			Refunded: c.refunded(), Currency: c.Currency})}, nil
	default:
		d, err := readDispute(e)
		if err != nil || d.Status == "" || d.Customer == "" {
			return nil, err
		}
		return []domain.Command{recordDispute(d)}, nil
	}
}

// stripeEvent is the part of Stripe's event object around the object it tells of.
type stripeEvent[T any] struct {
	APIVersion string `json:"api_version"`
	Data       struct {
		Object T `json:"object"`
	} `json:"data"`
}

// stripeCharge is https://docs.stripe.com/api/charges/object, as of API version apiVersion.
type stripeCharge struct {
	ID             string    `json:"id"`
	Customer       stripeRef `json:"customer"`
	Amount         int64     `json:"amount"`
	AmountCaptured *int64    `json:"amount_captured"` // missing in bodies from before September 2020
	AmountRefunded int64     `json:"amount_refunded"`
	Captured       *bool     `json:"captured"`
	Currency       string    `json:"currency"`

	apiVersion string
}

func readCharge(e domain.Event) (stripeCharge, error) {
	var ev stripeEvent[stripeCharge]
	if err := readStripe(e, &ev); err != nil {
		return stripeCharge{}, err
	}
	c := ev.Data.Object
	c.apiVersion = ev.APIVersion
	return c, nil
}

// captured is what was captured of the charge so far; 0 for an authorisation.
func (c stripeCharge) captured() int64 {
	switch {
	case c.Captured != nil && !*c.Captured:
		return 0
	case c.AmountCaptured != nil:
		return *c.AmountCaptured
	}
	return c.Amount
}

// refunded is what was refunded of the captured money so far. Before API version 2025-03-31, Stripe counted what a
// partial capture or a cancellation let go as refunded, though it had never been taken
// (https://docs.stripe.com/changelog/basil/2025-03-31/remove-refund-from-partial-capture-and-payment-cancellation-flow).
func (c stripeCharge) refunded() int64 {
	if c.apiVersion != "" && c.apiVersion < "2025-03-31" {
		return c.AmountRefunded - (c.Amount - c.captured())
	}
	if c.captured() == 0 {
		return 0
	}
	return c.AmountRefunded
}

// readDispute reads https://docs.stripe.com/api/disputes/object. The Customer is empty when Stripe didn't say, and the
// Status when the event doesn't bear on the balance.
func readDispute(e domain.Event) (DisputeLocated, error) {
	var ev stripeEvent[struct {
		ID       string          `json:"id"`
		Charge   stripeRef       `json:"charge"`
		Amount   int64           `json:"amount"`
		Currency string          `json:"currency"`
		Status   string          `json:"status"`
		Metadata json.RawMessage `json:"metadata"`
	}]
	if err := readStripe(e, &ev); err != nil {
		return DisputeLocated{}, err
	}
	o := ev.Data.Object
	d := DisputeLocated{Charge: o.Charge.ID, Customer: o.Charge.Customer, Dispute: o.ID, Amount: o.Amount, Currency: o.Currency}
	if d.Customer == "" {
		var m struct {
			Customer string `json:"customer"`
		}
		// Metadata is the users' own: whatever else stands there, or an empty list as PHP encodes it, is no customer.
		if json.Unmarshal(o.Metadata, &m) == nil {
			d.Customer = m.Customer
		}
	}
	switch {
	case d.Charge == "":
	case e.Type == "stripe.charge.dispute.closed" && (o.Status == Won || o.Status == Lost):
		d.Status = o.Status
	case e.Type == "stripe.charge.dispute.closed", strings.HasPrefix(o.Status, "warning_"):
	default:
		d.Status = Open
	}
	return d, nil
}

func readStripe(e domain.Event, into any) error {
	if err := json.Unmarshal(e.Data, into); err != nil {
		return &domain.Error{Class: domain.Invalid, Field: "data",
			Message: fmt.Sprintf("event %s is not a %s as Stripe sends it", e.ID, e.Type), Err: err}
	}
	return nil
}

// stripeRef reads a field that holds another object's id, or that object itself when it was expanded
// (https://docs.stripe.com/expand), or null.
type stripeRef struct {
	ID       string
	Customer string // of an expanded charge
}

func (r *stripeRef) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '{' {
		return json.Unmarshal(b, &r.ID)
	}
	var o struct {
		ID       string     `json:"id"`
		Customer *stripeRef `json:"customer"`
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	r.ID = o.ID
	if o.Customer != nil {
		r.Customer = o.Customer.ID
	}
	return nil
}
