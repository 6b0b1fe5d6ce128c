package penstock

// Run is the command line, for the tests outside of this package.
var Run = run
