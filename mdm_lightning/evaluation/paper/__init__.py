"""The paper's toy experiment and figures."""
