// Create, reveal, regenerate and revoke with the keyboard alone, and where the focus goes.
import test from 'node:test'
import assert from 'node:assert/strict'
import { browser, dashboard, heading, on, person, secretIn } from './lib.mjs'

// focused describes what has the focus, as role and name.
const focused = (page) => page.evaluate(() => {
	const e = document.activeElement
	const name = e.getAttribute('aria-label') || e.labels?.[0]?.innerText || e.innerText || ''
	return `${e.localName}${e.type ? ':' + e.type : ''} ${name.replace(/\s+/g, ' ').trim()}`
})

// tabTo presses Tab until the focus is where it has to be.
async function tabTo(page, wanted) {
	const seen = []
	for (let i = 0; i < 60; i++) {
		const at = await focused(page)
		if (typeof wanted === 'string' ? at === wanted : wanted.test(at)) return seen.length
		seen.push(at)
		await page.keyboard.press('Tab')
	}
	assert.fail(`${wanted} is not reached by Tab, but ${seen.join(' | ')}`)
}

test('create, reveal, regenerate and revoke with the keyboard alone', { timeout: 120_000 }, async (t) => {
	const d = await dashboard(t, 'doku', '-seed', '0')
	const p = await person(t, await browser(), d)
	const { page } = p
	const { keyboard } = page
	for (const never of ['click', 'fill', 'check', 'selectOption']) page[never] = () => assert.fail('with the keyboard alone')

	// Create.
	await tabTo(page, 'a New API key')
	await keyboard.press('Enter')
	let dialog = await on(p, 'New API key')
	assert.equal(await focused(page), 'input:text Name')
	// The focus stays in the dialog.
	for (let i = 0; i < 40; i++) {
		await keyboard.press('Tab')
		assert.ok(await page.evaluate(() => document.activeElement === document.body || Boolean(document.activeElement.closest('dialog'))), await focused(page))
	}
	await tabTo(page, 'input:text Name')
	// A wrong field has the focus afterwards.
	await keyboard.type('x'.repeat(201))
	await keyboard.press('Enter')
	await dialog.getByText('too long').waitFor()
	assert.equal(await focused(page), 'input:text Name')
	await keyboard.press('Control+a')
	await keyboard.type('Keyboard')
	await tabTo(page, /^input:checkbox payment:checkout/)
	await keyboard.press(' ')
	await keyboard.press('Escape') // closes, and the focus returns
	await dialog.waitFor({ state: 'detached' })
	assert.equal(await focused(page), 'a New API key')
	await keyboard.press('Enter')
	dialog = await on(p, 'New API key')
	await keyboard.type('Keyboard')
	await tabTo(page, /^input:checkbox payment:checkout/)
	await keyboard.press(' ')
	await tabTo(page, 'button:submit Create key')
	await keyboard.press('Enter')
	dialog = await on(p, 'API key created')
	const token = await secretIn(dialog)
	assert.equal(await focused(page), 'textarea:textarea Secret key')
	// The token is selected, Shift with an arrow takes a character from that, and Ctrl+A
	// selects the token alone again.
	const selected = () => page.evaluate(() => { const a = document.activeElement; return a.value.slice(a.selectionStart, a.selectionEnd) })
	assert.equal(await selected(), token)
	await keyboard.press('Shift+ArrowLeft')
	assert.equal(await selected(), token.slice(0, -1))
	await keyboard.press('Control+a')
	assert.equal(await selected(), token)
	await tabTo(page, 'button:button Copy secret key')
	await keyboard.press('Enter')
	await dialog.getByRole('status').filter({ hasText: 'Copied' }).waitFor()
	await tabTo(page, 'input:checkbox I have saved this key')
	await keyboard.press(' ')
	await tabTo(page, 'button:submit Done')
	await keyboard.press('Enter')
	await heading(p, 'Keyboard')
	await dialog.waitFor({ state: 'detached' })
	await d.works(token)

	// Reveal.
	await tabTo(page, 'button:submit Reveal key')
	let since = d.mark()
	await keyboard.press('Enter')
	dialog = await on(p, 'Confirm that it is you')
	assert.equal(await focused(page), 'input:text Code')
	await keyboard.type(await d.code(since))
	await keyboard.press('Enter')
	dialog = await on(p, 'Key revealed')
	assert.equal(await focused(page), 'textarea:textarea Secret key')
	assert.equal(await secretIn(dialog), token)
	await tabTo(page, 'button:submit Done')
	await keyboard.press('Enter')
	await dialog.waitFor({ state: 'detached' })
	await page.waitForLoadState()

	// Regenerate.
	await heading(p, 'Keyboard')
	await tabTo(page, 'button:submit Regenerate key')
	await keyboard.press('Enter')
	dialog = await on(p, 'Regenerate key')
	assert.match(await focused(page), /^input:radio Immediately/)
	await keyboard.press('ArrowDown')
	assert.match(await focused(page), /^input:radio Specific time/)
	await dialog.getByLabel('Date and time').waitFor()
	await keyboard.press('ArrowUp')
	await dialog.getByLabel('Date and time').waitFor({ state: 'hidden' })
	await tabTo(page, /^select/)
	await keyboard.type('1 d')
	await tabTo(page, 'input:checkbox I agree to the terms')
	await keyboard.press(' ')
	await tabTo(page, 'button:submit Save')
	since = d.mark()
	await keyboard.press('Enter')
	await on(p, 'Confirm that it is you')
	await keyboard.type(await d.code(since))
	await keyboard.press('Enter')
	dialog = await on(p, 'New secret key')
	const next = await secretIn(dialog)
	await tabTo(page, 'input:checkbox I have saved this key')
	await keyboard.press(' ')
	await tabTo(page, 'button:submit Done')
	await keyboard.press('Enter')
	await dialog.waitFor({ state: 'detached' })
	await d.works(next)
	await d.works(token)

	// Revoke.
	await heading(p, 'Keyboard')
	await tabTo(page, 'button:submit Revoke key')
	await keyboard.press('Enter')
	dialog = await on(p, 'Revoke key')
	assert.equal(await dialog.locator('input:checked').count(), 0)
	await keyboard.press('Tab')
	await keyboard.press('Shift+Tab')
	await tabTo(page, /^input:radio It is no longer needed/)
	await keyboard.press('ArrowDown')
	await tabTo(page, 'button:submit Revoke')
	await keyboard.press('Enter')
	await page.getByRole('main').getByText('Revoked', { exact: true }).waitFor()
	await d.refused(token)
	await d.refused(next)
})
