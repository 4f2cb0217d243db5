"""One function for each verb: options in, files and a result out; nothing is printed."""
