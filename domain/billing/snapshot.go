package billing

import "encoding/json"

// The wire form of State. Fields are exported only for encoding/json; a change to any of them, or to what Evolve makes
// of an event, raises the Version in Account.
type savedState struct {
	Suspended bool                    `json:"suspended,omitempty"`
	Totals    map[string]Totals       `json:"totals,omitempty"`
	Charges   map[string]savedCharge  `json:"charges,omitempty"`
	Disputes  map[string]savedDispute `json:"disputes,omitempty"`
}

type savedCharge struct {
	Currency string `json:"c"`
	Captured int64  `json:"t"`
	Refunded int64  `json:"f,omitempty"`
	Reserved int64  `json:"r,omitempty"`
	Disputes int    `json:"d,omitempty"`
}

type savedDispute struct {
	Charge   string `json:"h"`
	Amount   int64  `json:"a"`
	Currency string `json:"c"`
	Status   string `json:"s"`
}

// MarshalJSON encodes the state for a snapshot.
func (s State) MarshalJSON() ([]byte, error) {
	out := savedState{Suspended: s.suspended, Totals: map[string]Totals{}, Charges: map[string]savedCharge{}, Disputes: map[string]savedDispute{}}
	s.totals.each(func(k string, v Totals) { out.Totals[k] = v })
	s.charges.each(func(k string, v charge) {
		out.Charges[k] = savedCharge{v.currency, v.captured, v.refunded, v.reserved, v.disputes}
	})
	s.disputes.each(func(k string, v dispute) { out.Disputes[k] = savedDispute{v.charge, v.amount, v.currency, v.status} })
	return json.Marshal(out)
}

// UnmarshalJSON decodes a snapshot.
func (s *State) UnmarshalJSON(b []byte) error {
	var in savedState
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*s = State{suspended: in.Suspended}
	for k, v := range in.Totals {
		s.totals = s.totals.with(k, v)
	}
	for k, v := range in.Charges {
		s.charges = s.charges.with(k, charge{v.Currency, v.Captured, v.Refunded, v.Reserved, v.Disputes})
	}
	for k, v := range in.Disputes {
		s.disputes = s.disputes.with(k, dispute{v.Charge, v.Amount, v.Currency, v.Status})
	}
	return nil
}
