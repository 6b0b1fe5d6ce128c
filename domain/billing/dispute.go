package billing

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/penstock-io/penstock/domain"
)

// LinkCharge tells a charge's stream whose it is. Asked for by Disputes for every captured charge.
type LinkCharge struct {
	Charge   string `json:"charge" doc:"Stripe's id of the charge" example:"ch_1" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Customer string `json:"customer" doc:"Customer who was charged" example:"cus_9" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
}

// LocateDispute asks a charge's stream for the customer of a dispute. Asked for by Disputes.
type LocateDispute struct {
	Charge   string `json:"charge" doc:"Stripe's id of the charge" example:"ch_1" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Dispute  string `json:"dispute" doc:"Stripe's id of the dispute" example:"dp_1" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Amount   int64  `json:"amount" doc:"Disputed amount in minor units" example:"4200" minimum:"1" maximum:"999999999999"`
	Currency string `json:"currency" doc:"ISO 4217 code in lower case" example:"eur" pattern:"^[a-z]{3}$"`
	Status   string `json:"status" doc:"How the dispute stands" example:"open" enum:"open,won,lost"`
}

// ChargeLinked says whose a charge is.
type ChargeLinked struct {
	Charge   string `json:"charge" doc:"Stripe's id of the charge" example:"ch_1"`
	Customer string `json:"customer" doc:"Customer who was charged" example:"cus_9"`
}

// DisputeWaiting keeps what Stripe said of a dispute until the customer of its charge is known.
type DisputeWaiting struct {
	Charge   string `json:"charge" doc:"Stripe's id of the charge" example:"ch_1"`
	Dispute  string `json:"dispute" doc:"Stripe's id of the dispute" example:"dp_1"`
	Amount   int64  `json:"amount" doc:"Disputed amount, in minor units" example:"4200"`
	Currency string `json:"currency" doc:"ISO 4217 code in lower case" example:"eur"`
	Status   string `json:"status" doc:"How the dispute stands" enum:"open,won,lost"`
}

// DisputeLocated says what Stripe said of a dispute, with the customer that it left out.
type DisputeLocated struct {
	Charge   string `json:"charge" doc:"Stripe's id of the charge" example:"ch_1"`
	Customer string `json:"customer" doc:"Customer whose charge is disputed" example:"cus_9"`
	Dispute  string `json:"dispute" doc:"Stripe's id of the dispute" example:"dp_1"`
	Amount   int64  `json:"amount" doc:"Disputed amount, in minor units" example:"4200"`
	Currency string `json:"currency" doc:"ISO 4217 code in lower case" example:"eur"`
	Status   string `json:"status" doc:"How the dispute stands" enum:"open,won,lost"`
}

// Charge decides over "charge/‹charge›": whose a charge is, and which disputes wait to hear it. It goes with the
// policy Disputes; an application without disputes leaves both out.
var Charge = domain.Decider[ChargeState]{
	Category: "charge",
	Initial:  func() ChargeState { return ChargeState{} },
	Decide:   decideCharge,
	Evolve:   evolveCharge,
}

// ChargeState is a charge's customer, or the disputes that wait for it.
type ChargeState struct {
	customer string
	waiting  []DisputeWaiting // never appended to in place: states share it
}

func decideCharge(s ChargeState, c domain.Command) ([]domain.Event, error) {
	switch c := c.Payload.(type) {
	case LinkCharge:
		if s.customer == c.Customer {
			return nil, nil
		}
		if s.customer != "" {
			return nil, domain.Reject("charge-linked", "charge %s is %s's", c.Charge, s.customer)
		}
		events := []domain.Event{domain.Fact(ChargeLinked(c))}
		for _, w := range s.waiting {
			events = append(events, domain.Fact(located(w, c.Customer)))
		}
		return events, nil
	case LocateDispute:
		w := DisputeWaiting(c)
		if s.customer != "" {
			return []domain.Event{domain.Fact(located(w, s.customer))}, nil
		}
		if slices.Contains(s.waiting, w) {
			return nil, nil
		}
		return []domain.Event{domain.Fact(w)}, nil
	default:
		return nil, fmt.Errorf("a charge takes no %T", c)
	}
}

func located(w DisputeWaiting, customer string) DisputeLocated {
	return DisputeLocated{Charge: w.Charge, Customer: customer, Dispute: w.Dispute, Amount: w.Amount,
		Currency: w.Currency, Status: w.Status}
}

func evolveCharge(s ChargeState, e domain.Event) ChargeState {
	switch e := e.Payload.(type) {
	case ChargeLinked:
		return ChargeState{customer: e.Customer}
	case DisputeWaiting:
		s.waiting = append(slices.Clip(s.waiting), e)
	}
	return s
}

// Disputes brings Stripe's disputes to the account they concern. A dispute names its charge only, and a policy
// can't look anything up, so it asks the charge's own stream, which every captured charge is linked to; a dispute
// that comes before its charge waits there. Disputes that carry their customer are left to FromStripe. Those of a
// charge without a customer wait for ever, visibly, in the charge's stream.
var Disputes = domain.Policy{
	Name: "billing/disputes",
	From: []string{
		"billing.charge.captured",
		"charge.dispute.located",
		"stripe.charge.dispute.created",
		"stripe.charge.dispute.funds_withdrawn",
		"stripe.charge.dispute.closed",
	},
	React: routeDispute,
}

func routeDispute(e domain.Event) ([]domain.Command, error) {
	if e.Payload == nil {
		if err := Types.Decode(&e); err != nil {
			return nil, err
		}
	}
	switch p := e.Payload.(type) {
	case ChargeCaptured:
		return []domain.Command{domain.Ask(LinkCharge{Charge: p.Charge, Customer: p.Customer})}, nil
	case DisputeLocated:
		return []domain.Command{recordDispute(p)}, nil
	}
	d, err := readDispute(e)
	if err != nil || d.Status == "" || d.Customer != "" {
		return nil, err
	}
	return []domain.Command{domain.Ask(LocateDispute{Charge: d.Charge, Dispute: d.Dispute, Amount: d.Amount,
		Currency: d.Currency, Status: d.Status})}, nil
}

func recordDispute(d DisputeLocated) domain.Command {
	if d.Status == Open {
		return domain.Ask(RecordDispute{Customer: d.Customer, Dispute: d.Dispute, Charge: d.Charge, Amount: d.Amount,
			Currency: d.Currency})
	}
	return domain.Ask(CloseDispute{Customer: d.Customer, Dispute: d.Dispute, Charge: d.Charge, Amount: d.Amount,
		Currency: d.Currency, Status: d.Status})
}

func (c LinkCharge) stream() (domain.Stream, error) {
	return chargeStream(c.Charge, checkID("customer", c.Customer))
}

func (c LocateDispute) stream() (domain.Stream, error) {
	return chargeStream(c.Charge, checkID("dispute", c.Dispute), checkAmount("amount", c.Amount),
		checkCurrency(c.Currency), checkStatus(c.Status, Open, Won, Lost))
}

// chargeStream returns the charge's stream, or the first problem of the command.
func chargeStream(charge string, problems ...error) (domain.Stream, error) {
	if err := cmp.Or(checkID("charge", charge), cmp.Or(problems...)); err != nil {
		return "", err
	}
	return domain.NewStream(Charge.Category, charge)
}
