package billing

import (
	"cmp"
	"slices"
	"unicode/utf8"

	"github.com/penstock-io/penstock/domain"
)

// Bounds of what a command may carry.
const (
	// MaxAmount is the most one command may move, in minor units: twelve digits, as the largest charge Stripe takes in
	// any currency (https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts).
	MaxAmount = 999_999_999_999
	// MaxTotal bounds what an account sums up in one currency. The balance is made of four such sums, so it stays
	// below 2⁵³ and every JSON reader, JavaScript's too, takes it without rounding.
	MaxTotal  = 1 << 51
	maxID     = 255 // bytes; Stripe's ids are at most this long
	maxReason = 500 // runes
)

// How a dispute stands.
const (
	Open = "open"
	Won  = "won"
	Lost = "lost"
)

// GrantCredit gives a customer credit. A suspended account takes none.
type GrantCredit struct {
	Customer string `json:"customer" doc:"Customer to credit" example:"cus_9" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Amount   int64  `json:"amount" doc:"Credit in minor units" example:"500" minimum:"1" maximum:"999999999999"`
	Currency string `json:"currency" doc:"ISO 4217 code in lower case" example:"eur" pattern:"^[a-z]{3}$"`
	Reason   string `json:"reason,omitempty" doc:"Why, in words" example:"late delivery" maxLength:"500"`
}

// RequestRefund reserves a part of a captured charge for a refund. It moves no money: whoever pays refunds out
// follows billing.refund.requested, and Stripe's charge.refunded completes it.
type RequestRefund struct {
	Customer string `json:"customer" doc:"Customer to refund" example:"cus_9" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Charge   string `json:"charge" doc:"Stripe's id of the charge" example:"ch_1" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Amount   int64  `json:"amount" doc:"Amount to refund in minor units" example:"1200" minimum:"1" maximum:"999999999999"`
	Currency string `json:"currency" doc:"The charge's currency" example:"eur" pattern:"^[a-z]{3}$"`
}

// SuspendAccount stops further credit. What Stripe reports goes on being recorded, and refunds stay possible.
type SuspendAccount struct {
	Customer string `json:"customer" doc:"Customer whose account to suspend" example:"cus_9" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Reason   string `json:"reason,omitempty" doc:"Why, in words" example:"chargebacks" maxLength:"500"`
}

// ReopenAccount ends a suspension.
type ReopenAccount struct {
	Customer string `json:"customer" doc:"Customer whose account to reopen" example:"cus_9" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Reason   string `json:"reason,omitempty" doc:"Why, in words" example:"settled" maxLength:"500"`
}

// RecordCharge records what Stripe has captured of a charge. Asked for by FromStripe.
type RecordCharge struct {
	Customer string `json:"customer" doc:"Customer who was charged" example:"cus_9" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Charge   string `json:"charge" doc:"Stripe's id of the charge" example:"ch_1" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Captured int64  `json:"captured" doc:"Captured so far, in minor units" example:"4200" minimum:"1" maximum:"999999999999"`
	Currency string `json:"currency" doc:"ISO 4217 code in lower case" example:"eur" pattern:"^[a-z]{3}$"`
}

// RecordRefund records what Stripe has refunded of a charge. It carries what was captured too, because a refund may
// be reported before its charge. Asked for by FromStripe.
type RecordRefund struct {
	Customer string `json:"customer" doc:"Customer who was refunded" example:"cus_9" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Charge   string `json:"charge" doc:"Stripe's id of the charge" example:"ch_1" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Captured int64  `json:"captured" doc:"Captured so far, in minor units" example:"4200" minimum:"1" maximum:"999999999999"`
	Refunded int64  `json:"refunded" doc:"Refunded so far, in minor units; at most captured" example:"1200" minimum:"1" maximum:"999999999999"`
	Currency string `json:"currency" doc:"ISO 4217 code in lower case" example:"eur" pattern:"^[a-z]{3}$"`
}

// RecordDispute records that a charge is disputed and Stripe has withdrawn the amount. Asked for by FromStripe and
// Disputes.
type RecordDispute struct {
	Customer string `json:"customer" doc:"Customer whose charge is disputed" example:"cus_9" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Dispute  string `json:"dispute" doc:"Stripe's id of the dispute" example:"dp_1" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Charge   string `json:"charge" doc:"Stripe's id of the charge" example:"ch_1" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Amount   int64  `json:"amount" doc:"Disputed amount in minor units" example:"4200" minimum:"1" maximum:"999999999999"`
	Currency string `json:"currency" doc:"ISO 4217 code in lower case" example:"eur" pattern:"^[a-z]{3}$"`
}

// CloseDispute records how a dispute ended. It carries the whole dispute, because its end may be reported before
// its beginning. Asked for by FromStripe and Disputes.
type CloseDispute struct {
	Customer string `json:"customer" doc:"Customer whose charge was disputed" example:"cus_9" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Dispute  string `json:"dispute" doc:"Stripe's id of the dispute" example:"dp_1" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Charge   string `json:"charge" doc:"Stripe's id of the charge" example:"ch_1" pattern:"^[A-Za-z0-9._:@+-]+$" maxLength:"255"`
	Amount   int64  `json:"amount" doc:"Disputed amount in minor units" example:"4200" minimum:"1" maximum:"999999999999"`
	Currency string `json:"currency" doc:"ISO 4217 code in lower case" example:"eur" pattern:"^[a-z]{3}$"`
	Status   string `json:"status" doc:"How it ended" example:"lost" enum:"won,lost"`
}

func (c GrantCredit) stream() (domain.Stream, error) {
	return accountStream(c.Customer, checkAmount("amount", c.Amount), checkCurrency(c.Currency), checkReason(c.Reason))
}

func (c RequestRefund) stream() (domain.Stream, error) {
	return accountStream(c.Customer, checkID("charge", c.Charge), checkAmount("amount", c.Amount), checkCurrency(c.Currency))
}

func (c SuspendAccount) stream() (domain.Stream, error) {
	return accountStream(c.Customer, checkReason(c.Reason))
}

func (c ReopenAccount) stream() (domain.Stream, error) {
	return accountStream(c.Customer, checkReason(c.Reason))
}

func (c RecordCharge) stream() (domain.Stream, error) {
	return accountStream(c.Customer, checkID("charge", c.Charge), checkAmount("captured", c.Captured), checkCurrency(c.Currency))
}

func (c RecordRefund) stream() (domain.Stream, error) {
	var excess error
	if c.Refunded > c.Captured {
		excess = domain.Invalidf("refunded", "refunded is at most captured, got %d of %d", c.Refunded, c.Captured)
	}
	return accountStream(c.Customer, checkID("charge", c.Charge), checkAmount("captured", c.Captured),
		checkAmount("refunded", c.Refunded), excess, checkCurrency(c.Currency))
}

func (c RecordDispute) stream() (domain.Stream, error) {
	return accountStream(c.Customer, checkID("dispute", c.Dispute), checkID("charge", c.Charge),
		checkAmount("amount", c.Amount), checkCurrency(c.Currency))
}

func (c CloseDispute) stream() (domain.Stream, error) {
	return accountStream(c.Customer, checkID("dispute", c.Dispute), checkID("charge", c.Charge),
		checkAmount("amount", c.Amount), checkCurrency(c.Currency), checkStatus(c.Status, Won, Lost))
}

// accountStream returns the customer's stream, or the first problem of the command.
func accountStream(customer string, problems ...error) (domain.Stream, error) {
	if err := cmp.Or(checkID("customer", customer), cmp.Or(problems...)); err != nil {
		return "", err
	}
	return domain.NewStream(Account.Category, customer)
}

func checkID(field, id string) error {
	if id == "" || len(id) > maxID {
		return domain.Invalidf(field, "%s has 1 to %d characters, got %d", field, maxID, len(id))
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '_', c == ':', c == '@', c == '+', c == '-':
		default:
			return domain.Invalidf(field, "%s has only letters, digits and . _ : @ + -, got %q", field, id)
		}
	}
	return nil
}

func checkAmount(field string, amount int64) error {
	if amount < 1 || amount > MaxAmount {
		return domain.Invalidf(field, "%s is 1 to %d minor units, got %d", field, int64(MaxAmount), amount)
	}
	return nil
}

func checkCurrency(currency string) error {
	ok := len(currency) == 3
	for i := 0; ok && i < len(currency); i++ {
		ok = 'a' <= currency[i] && currency[i] <= 'z'
	}
	if !ok {
		return domain.Invalidf("currency", "currency is three lower-case letters, got %.10q", currency)
	}
	return nil
}

func checkReason(reason string) error {
	if n := utf8.RuneCountInString(reason); n > maxReason {
		return domain.Invalidf("reason", "reason has at most %d characters, got %d", maxReason, n)
	}
	return nil
}

func checkStatus(status string, allowed ...string) error {
	if slices.Contains(allowed, status) {
		return nil
	}
	return domain.Invalidf("status", "status is one of %q, got %.20q", allowed, status)
}
