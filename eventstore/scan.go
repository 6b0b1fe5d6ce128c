package eventstore

// ScanBack calls f for each row before the key before, in falling key order, until f returns false. An empty before
// starts at the last row. It is for transactions that only read.
func (tx *Tx) ScanBack(before string, f func(key, row []byte) bool) {
	from := []byte(before)
	if before == "" {
		from = nil
	}
	Index{tx, tx.rows}.ScanBack(from, f)
}

// Count is how many rows there are.
func (tx *Tx) Count() int64 { return rows(tx.tx) + tx.count }
